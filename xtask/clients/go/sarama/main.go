// sarama.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"seawall/clients/contract"
)

func main() {
	sarama.Logger = log.New(io.Discard, "", 0)
	contract.Run(func(bootstrap string) (contract.Client, error) {
		addresses := []string{bootstrap}
		admin, err := sarama.NewClusterAdmin(addresses, config())
		return &client{addresses, admin}, err
	})
}

type client struct {
	addresses []string
	admin     sarama.ClusterAdmin
}

// config is patient: the broker is away for a while in one of the checks.
func config() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Metadata.Retry.Max = 400
	config.Metadata.Retry.Backoff = 100 * time.Millisecond
	config.Metadata.RefreshFrequency = time.Second
	return config
}

func (c *client) CreateTopic(topic string, partitions int, configs map[string]string) error {
	detail := &sarama.TopicDetail{NumPartitions: int32(partitions), ReplicationFactor: 1, ConfigEntries: map[string]*string{}}
	for name, value := range configs {
		detail.ConfigEntries[name] = &value
	}
	err := c.admin.CreateTopic(topic, detail, false)
	if errors.Is(err, sarama.ErrTopicAlreadyExists) {
		return contract.ErrTopicExists
	}
	return err
}

func (c *client) PartitionCount(topic string) (int, error) {
	topics, err := c.admin.DescribeTopics([]string{topic})
	if err != nil {
		return 0, err
	}
	led := 0
	for _, partition := range topics[0].Partitions {
		if partition.Err == sarama.ErrNoError && partition.Leader >= 0 {
			led++
		}
	}
	return led, nil
}

var codecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

func (c *client) Producer(codec string) (contract.Producer, error) {
	config := config()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	config.Producer.Compression = codecs[codec]
	config.Producer.Flush.Frequency = 5 * time.Millisecond
	config.Producer.Retry.Max = 400
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = newPartitioner
	inner, err := sarama.NewAsyncProducer(c.addresses, config)
	if err != nil {
		return nil, err
	}
	p := &producer{inner: inner}
	go func() {
		for range inner.Successes() {
			p.answers.Done()
		}
	}()
	go func() {
		for failed := range inner.Errors() {
			p.err = failed
			p.answers.Done()
		}
	}()
	return p, nil
}

// partitioner lets a record name its partition; otherwise the key decides.
type partitioner struct{ sarama.Partitioner }

func newPartitioner(topic string) sarama.Partitioner {
	return partitioner{sarama.NewHashPartitioner(topic)}
}

func (p partitioner) Partition(message *sarama.ProducerMessage, partitions int32) (int32, error) {
	if named, ok := message.Metadata.(int32); ok && named >= 0 {
		return named, nil
	}
	return p.Partitioner.Partition(message, partitions)
}

type producer struct {
	inner   sarama.AsyncProducer
	answers sync.WaitGroup
	err     error
}

func (p *producer) Send(topic string, partition int32, record contract.Record) {
	p.answers.Add(1)
	p.inner.Input() <- &sarama.ProducerMessage{
		Topic: topic, Key: sarama.StringEncoder(record.Key), Value: sarama.StringEncoder(record.Value), Metadata: partition}
}

func (p *producer) Close() error {
	// A producer that is closing repeats nothing, so the answers are waited for first.
	p.answers.Wait()
	return errors.Join(p.err, p.inner.Close())
}

// reader has a partition consumer for each partition; they deliver into one channel.
type reader struct {
	client    sarama.Client
	inner     sarama.Consumer
	topic     string
	records   chan contract.Seen
	consumers map[int32]sarama.PartitionConsumer
}

func (c *client) Reader(topic string, offsets map[int32]int64) (contract.Reader, error) {
	inner, err := sarama.NewClient(c.addresses, config())
	if err != nil {
		return nil, err
	}
	consumer, err := sarama.NewConsumerFromClient(inner)
	if err != nil {
		return nil, err
	}
	r := &reader{inner, consumer, topic, make(chan contract.Seen), map[int32]sarama.PartitionConsumer{}}
	for partition, offset := range offsets {
		if err := r.open(partition, offset); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (r *reader) open(partition int32, offset int64) error {
	consumer, err := r.inner.ConsumePartition(r.topic, partition, offset)
	if err != nil {
		return err
	}
	r.consumers[partition] = consumer
	go func() {
		for message := range consumer.Messages() {
			r.records <- seen(message)
		}
	}()
	return nil
}

func seen(message *sarama.ConsumerMessage) contract.Seen {
	content := contract.Record{Key: string(message.Key), Value: string(message.Value)}
	return contract.Seen{Record: content, Partition: message.Partition, Offset: message.Offset, Time: message.Timestamp}
}

func (r *reader) Poll(max time.Duration) ([]contract.Seen, error) {
	var all []contract.Seen
	end := time.After(max)
	for len(all) < 5000 {
		select {
		case record := <-r.records:
			all = append(all, record)
		case <-end:
			return all, nil
		}
	}
	return all, nil
}

// Seek is a new partition consumer: sarama has no other way.
func (r *reader) Seek(partition int32, offset int64) error {
	if err := r.consumers[partition].Close(); err != nil {
		return err
	}
	return r.open(partition, offset)
}

// Pause waits until the fetch under way, which sarama still delivers, is over.
func (r *reader) Pause(partition int32) {
	r.inner.Pause(map[string][]int32{r.topic: {partition}})
	time.Sleep(time.Second)
}

func (r *reader) Resume(partition int32) {
	r.inner.Resume(map[string][]int32{r.topic: {partition}})
}

func (r *reader) OffsetAt(partition int32, at time.Time) (int64, error) {
	return r.client.GetOffset(r.topic, partition, at.UnixMilli())
}

func (r *reader) Close() error {
	for _, consumer := range r.consumers {
		consumer.AsyncClose()
	}
	return errors.Join(r.inner.Close(), r.client.Close())
}

func (c *client) Join(group, topic, instance string) (contract.Member, error) {
	return c.join(group, topic, instance, false)
}

// JoinAutoCommitting commits what was marked, and nothing is marked but by the checks.
func (c *client) JoinAutoCommitting(group, topic, instance string) (contract.Member, error) {
	return c.join(group, topic, instance, true)
}

func (c *client) join(group, topic, instance string, autoCommit bool) (contract.Member, error) {
	config := config()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = autoCommit
	config.Consumer.Offsets.AutoCommit.Interval = 100 * time.Millisecond
	config.Consumer.Group.Session.Timeout = contract.SessionTimeout
	config.Consumer.Group.Heartbeat.Interval = contract.HeartbeatInterval
	config.Consumer.Group.InstanceId = instance
	config.Consumer.Return.Errors = true
	inner, err := sarama.NewConsumerGroup(c.addresses, group, config)
	if err != nil {
		return nil, err
	}
	m := &member{inner: inner, admin: c.admin, group: group, topic: topic, ended: make(chan struct{})}
	go func() {
		// A broker that is away for a while is no end; what matters shows in what is consumed.
		for range inner.Errors() {
		}
	}()
	go m.consume()
	return m, nil
}

type member struct {
	inner sarama.ConsumerGroup
	admin sarama.ClusterAdmin
	group string
	topic string
	ended chan struct{}

	mutex   sync.Mutex
	session sarama.ConsumerGroupSession
	seen    []contract.Seen
}

func (m *member) consume() {
	defer close(m.ended)
	for {
		err := m.inner.Consume(context.Background(), []string{m.topic}, m)
		if errors.Is(err, sarama.ErrClosedConsumerGroup) {
			return
		}
		if err != nil {
			// The broker is away: the group is joined again.
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (m *member) Setup(session sarama.ConsumerGroupSession) error {
	m.set(session)
	return nil
}

func (m *member) Cleanup(sarama.ConsumerGroupSession) error {
	m.set(nil)
	return nil
}

func (m *member) set(session sarama.ConsumerGroupSession) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.session = session
}

func (m *member) ConsumeClaim(_ sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		m.mutex.Lock()
		m.seen = append(m.seen, seen(message))
		m.mutex.Unlock()
	}
	return nil
}

func (m *member) current() sarama.ConsumerGroupSession {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.session
}

func (m *member) Assigned() []int32 {
	session := m.current()
	if session == nil {
		return nil
	}
	assigned := slices.Clone(session.Claims()[m.topic])
	slices.Sort(assigned)
	return assigned
}

func (m *member) Generation() int32 {
	session := m.current()
	if session == nil {
		return -1
	}
	return session.GenerationID()
}

func (m *member) Seen() []contract.Seen {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return slices.Clone(m.seen)
}

func (m *member) Err() error {
	return nil
}

func (m *member) mark(offsets map[int32]int64) (sarama.ConsumerGroupSession, error) {
	session := m.current()
	if session == nil {
		return nil, errors.New("no session to commit in")
	}
	for partition, offset := range offsets {
		session.MarkOffset(m.topic, partition, offset, "")
	}
	return session, nil
}

func (m *member) CommitSync(offsets map[int32]int64) error {
	session, err := m.mark(offsets)
	if err == nil {
		session.Commit()
	}
	return err
}

// CommitAsync leaves it to the timer, sarama's only way.
func (m *member) CommitAsync(offsets map[int32]int64) error {
	if _, err := m.mark(offsets); err != nil {
		return err
	}
	return contract.Eventually("committed offsets", offsets, func() (map[int32]int64, error) {
		asked := map[string][]int32{m.topic: {0, 1, 2}}
		answer, err := m.admin.ListConsumerGroupOffsets(m.group, asked)
		if err != nil {
			return nil, err
		}
		committed := map[int32]int64{}
		for partition, block := range answer.Blocks[m.topic] {
			committed[partition] = block.Offset
		}
		return committed, nil
	})
}

func (m *member) Leave() error {
	err := m.inner.Close()
	<-m.ended
	return err
}

func (c *client) AdminRoundTrip(topic string) (string, error) {
	if err := c.CreateTopic(topic, 2, map[string]string{"retention.ms": "86400000"}); err != nil {
		return "", err
	}
	set := "2000000"
	change := map[string]sarama.IncrementalAlterConfigsEntry{
		"max.message.bytes": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &set}}
	if err := c.admin.IncrementalAlterConfig(sarama.TopicResource, topic, change, false); err != nil {
		return "", fmt.Errorf("alter: %w", err)
	}
	expected := map[string]string{"max.message.bytes": "2000000", "retention.ms": "86400000"}
	if err := contract.Eventually("configs", expected, func() (map[string]string, error) { return c.configs(topic, expected) }); err != nil {
		return "", err
	}
	producer, err := c.Producer("none")
	if err != nil {
		return "", err
	}
	for range 10 {
		producer.Send(topic, 0, contract.Record{Value: "value"})
	}
	if err := producer.Close(); err != nil {
		return "", err
	}
	offsets := func() ([2]int64, error) { return c.offsets(topic) }
	if err := contract.Eventually("offsets", [2]int64{0, 10}, offsets); err != nil {
		return "", err
	}
	if err := c.admin.DeleteRecords(topic, map[int32]int64{0: 4}); err != nil {
		return "", fmt.Errorf("delete records: %w", err)
	}
	if err := contract.Eventually("offsets", [2]int64{4, 10}, offsets); err != nil {
		return "", err
	}
	if err := c.admin.CreatePartitions(topic, 4, nil, false); err != nil {
		return "", fmt.Errorf("add partitions: %w", err)
	}
	if err := contract.Eventually("partitions", 4, func() (int, error) { return c.PartitionCount(topic) }); err != nil {
		return "", err
	}
	if err := c.admin.DeleteTopic(topic); err != nil {
		return "", err
	}
	return "", contract.Eventually("the topic listed", false, func() (bool, error) {
		topics, err := c.admin.ListTopics()
		_, listed := topics[topic]
		return listed, err
	})
}

func (c *client) configs(topic string, names map[string]string) (map[string]string, error) {
	entries, err := c.admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic})
	found := map[string]string{}
	for _, entry := range entries {
		if _, asked := names[entry.Name]; asked {
			found[entry.Name] = entry.Value
		}
	}
	return found, err
}

func (c *client) offsets(topic string) ([2]int64, error) {
	var both [2]int64
	for at, which := range []int64{sarama.OffsetOldest, sarama.OffsetNewest} {
		listed, err := c.admin.ListOffsets(map[string]map[int32]int64{topic: {0: which}}, nil)
		if err != nil {
			return both, err
		}
		both[at] = listed[topic][0].Offset
	}
	return both, nil
}
