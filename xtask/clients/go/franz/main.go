// franz-go.
package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"seawall/clients/contract"
)

func main() {
	contract.Run(func(bootstrap string) (contract.Client, error) {
		inner, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.MetadataMinAge(100*time.Millisecond))
		if err != nil {
			return nil, err
		}
		return &client{bootstrap, kadm.NewClient(inner)}, nil
	})
}

type client struct {
	bootstrap string
	admin     *kadm.Client
}

func bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), contract.WaitMax)
}

func (c *client) open(options ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(options, kgo.SeedBrokers(c.bootstrap), kgo.MetadataMinAge(100*time.Millisecond))...)
}

func (c *client) CreateTopic(topic string, partitions int, configs map[string]string) error {
	ctx, done := bounded()
	defer done()
	values := map[string]*string{}
	for name, value := range configs {
		values[name] = &value
	}
	_, err := c.admin.CreateTopic(ctx, int32(partitions), 1, values, topic)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return contract.ErrTopicExists
	}
	return err
}

func (c *client) PartitionCount(topic string) (int, error) {
	ctx, done := bounded()
	defer done()
	topics, err := c.admin.ListTopics(ctx, topic)
	if err != nil {
		return 0, err
	}
	led := 0
	for _, partition := range topics[topic].Partitions {
		if partition.Err == nil && partition.Leader >= 0 {
			led++
		}
	}
	return led, nil
}

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

func (c *client) Producer(codec string) (contract.Producer, error) {
	byKey := kgo.StickyKeyPartitioner(nil)
	inner, err := c.open(
		kgo.ProducerBatchCompression(codecs[codec]),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
			keyed := byKey.ForTopic(topic)
			return func(record *kgo.Record, partitions int) int {
				if record.Partition >= 0 {
					return int(record.Partition)
				}
				return keyed.Partition(record, partitions)
			}
		})),
	)
	return &producer{inner: inner}, err
}

type producer struct {
	inner *kgo.Client
	mutex sync.Mutex
	err   error
}

func (p *producer) Send(topic string, partition int32, record contract.Record) {
	sent := &kgo.Record{Topic: topic, Partition: partition, Key: []byte(record.Key), Value: []byte(record.Value)}
	p.inner.Produce(context.Background(), sent, func(_ *kgo.Record, err error) {
		if err != nil {
			p.mutex.Lock()
			p.err = err
			p.mutex.Unlock()
		}
	})
}

func (p *producer) Close() error {
	ctx, done := bounded()
	defer done()
	err := p.inner.Flush(ctx)
	p.inner.Close()
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return errors.Join(err, p.err)
}

func (c *client) Reader(topic string, offsets map[int32]int64) (contract.Reader, error) {
	from := map[int32]kgo.Offset{}
	for partition, offset := range offsets {
		from[partition] = kgo.NewOffset().At(offset)
	}
	inner, err := c.open(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	return &reader{inner, c.admin, topic}, err
}

type reader struct {
	inner *kgo.Client
	admin *kadm.Client
	topic string
}

func (r *reader) Poll(max time.Duration) ([]contract.Seen, error) {
	ctx, done := context.WithTimeout(context.Background(), max)
	defer done()
	return polled(r.inner.PollRecords(ctx, 5000))
}

func polled(fetches kgo.Fetches) ([]contract.Seen, error) {
	for _, failed := range fetches.Errors() {
		// A broker that is away for a while is no end: the group is joined again.
		var away *kgo.ErrGroupSession
		if !errors.Is(failed.Err, context.DeadlineExceeded) && !errors.As(failed.Err, &away) {
			return nil, failed.Err
		}
	}
	var seen []contract.Seen
	fetches.EachRecord(func(record *kgo.Record) {
		content := contract.Record{Key: string(record.Key), Value: string(record.Value)}
		seen = append(seen, contract.Seen{
			Record: content, Partition: record.Partition, Offset: record.Offset, Time: record.Timestamp})
	})
	return seen, nil
}

func (r *reader) Seek(partition int32, offset int64) error {
	to := map[int32]kgo.EpochOffset{partition: {Epoch: -1, Offset: offset}}
	r.inner.SetOffsets(map[string]map[int32]kgo.EpochOffset{r.topic: to})
	return nil
}

func (r *reader) Pause(partition int32) {
	r.inner.PauseFetchPartitions(map[string][]int32{r.topic: {partition}})
}

func (r *reader) Resume(partition int32) {
	r.inner.ResumeFetchPartitions(map[string][]int32{r.topic: {partition}})
}

func (r *reader) OffsetAt(partition int32, at time.Time) (int64, error) {
	ctx, done := bounded()
	defer done()
	listed, err := r.admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), r.topic)
	found, _ := listed.Lookup(r.topic, partition)
	return found.Offset, errors.Join(err, found.Err)
}

func (r *reader) Close() error {
	r.inner.Close()
	return nil
}

func (c *client) Join(group, topic, instance string) (contract.Member, error) {
	m := &member{topic: topic, ended: make(chan struct{})}
	options := []kgo.Opt{
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(contract.SessionTimeout),
		kgo.HeartbeatInterval(contract.HeartbeatInterval),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, given map[string][]int32) {
			m.change(func(assigned []int32) []int32 { return append(assigned, given[topic]...) })
		}),
		kgo.OnPartitionsRevoked(m.taken),
		kgo.OnPartitionsLost(m.taken),
	}
	if instance != "" {
		options = append(options, kgo.InstanceID(instance))
	}
	inner, err := c.open(options...)
	if err != nil {
		return nil, err
	}
	m.inner = inner
	go m.poll()
	return m, nil
}

type (
	commitRequest  = kmsg.OffsetCommitRequest
	commitResponse = kmsg.OffsetCommitResponse
	onDone         = func(*kgo.Client, *commitRequest, *commitResponse, error)
)

type member struct {
	inner *kgo.Client
	topic string
	ended chan struct{}

	mutex    sync.Mutex
	assigned []int32
	seen     []contract.Seen
	err      error
}

func (m *member) change(how func([]int32) []int32) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.assigned = how(m.assigned)
	slices.Sort(m.assigned)
}

func (m *member) taken(_ context.Context, _ *kgo.Client, away map[string][]int32) {
	m.change(func(assigned []int32) []int32 {
		return slices.DeleteFunc(assigned, func(partition int32) bool { return slices.Contains(away[m.topic], partition) })
	})
}

func (m *member) poll() {
	defer close(m.ended)
	for {
		fetches := m.inner.PollFetches(context.Background())
		if fetches.IsClientClosed() {
			return
		}
		seen, err := polled(fetches)
		m.mutex.Lock()
		m.seen = append(m.seen, seen...)
		m.err = errors.Join(m.err, err)
		m.mutex.Unlock()
	}
}

func (m *member) Assigned() []int32 {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return slices.Clone(m.assigned)
}

func (m *member) Generation() int32 {
	_, generation := m.inner.GroupMetadata()
	return generation
}

func (m *member) Seen() []contract.Seen {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return slices.Clone(m.seen)
}

func (m *member) Err() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.err
}

func (m *member) offsets(offsets map[int32]int64) map[string]map[int32]kgo.EpochOffset {
	of := map[int32]kgo.EpochOffset{}
	for partition, offset := range offsets {
		of[partition] = kgo.EpochOffset{Epoch: -1, Offset: offset}
	}
	return map[string]map[int32]kgo.EpochOffset{m.topic: of}
}

func (m *member) CommitSync(offsets map[int32]int64) error {
	return m.commit(offsets, m.inner.CommitOffsetsSync)
}

func (m *member) CommitAsync(offsets map[int32]int64) error {
	answered := make(chan struct{})
	err := m.commit(offsets, func(ctx context.Context, offsets map[string]map[int32]kgo.EpochOffset, done onDone) {
		m.inner.CommitOffsets(ctx, offsets, func(c *kgo.Client, asked *commitRequest, answer *commitResponse, err error) {
			done(c, asked, answer, err)
			close(answered)
		})
		<-answered
	})
	return err
}

// commit gives the first error of the request or of a partition.
func (m *member) commit(
	offsets map[int32]int64,
	commit func(context.Context, map[string]map[int32]kgo.EpochOffset, onDone),
) error {
	ctx, done := bounded()
	defer done()
	var failed error
	commit(ctx, m.offsets(offsets), func(_ *kgo.Client, _ *commitRequest, answer *commitResponse, err error) {
		failed = err
		if err != nil {
			return
		}
		for _, topic := range answer.Topics {
			for _, partition := range topic.Partitions {
				failed = errors.Join(failed, kerr.ErrorForCode(partition.ErrorCode))
			}
		}
	})
	return failed
}

func (m *member) Leave() error {
	m.inner.Close()
	<-m.ended
	return m.Err()
}

func (c *client) AdminRoundTrip(topic string) (string, error) {
	ctx, done := bounded()
	defer done()
	if err := c.CreateTopic(topic, 2, map[string]string{"retention.ms": "86400000"}); err != nil {
		return "", err
	}
	set := "2000000"
	change := []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &set}}
	altered, err := c.admin.AlterTopicConfigs(ctx, change, topic)
	if err == nil {
		_, err = altered.On(topic, func(response *kadm.AlterConfigsResponse) error { return response.Err })
	}
	if err != nil {
		return "", fmt.Errorf("alter: %w", err)
	}
	expected := map[string]string{"max.message.bytes": "2000000", "retention.ms": "86400000"}
	if err := contract.Eventually("configs", expected, func() (map[string]string, error) { return c.configs(ctx, topic, expected) }); err != nil {
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
	offsets := func() ([2]int64, error) { return c.offsets(ctx, topic) }
	if err := contract.Eventually("offsets", [2]int64{0, 10}, offsets); err != nil {
		return "", err
	}
	deleting := kadm.Offsets{}
	deleting.Add(kadm.Offset{Topic: topic, Partition: 0, At: 4})
	deleted, err := c.admin.DeleteRecords(ctx, deleting)
	if err := errors.Join(err, deleted.Error()); err != nil {
		return "", err
	}
	if err := contract.Eventually("offsets", [2]int64{4, 10}, offsets); err != nil {
		return "", err
	}
	added, err := c.admin.UpdatePartitions(ctx, 4, topic)
	if err := errors.Join(err, added.Error()); err != nil {
		return "", err
	}
	if err := contract.Eventually("partitions", 4, func() (int, error) { return c.PartitionCount(topic) }); err != nil {
		return "", err
	}
	if _, err := c.admin.DeleteTopic(ctx, topic); err != nil {
		return "", err
	}
	return "", contract.Eventually("the topic listed", false, func() (bool, error) {
		topics, err := c.admin.ListTopics(ctx)
		return topics.Has(topic), err
	})
}

func (c *client) configs(ctx context.Context, topic string, names map[string]string) (map[string]string, error) {
	described, err := c.admin.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	resource, err := described.On(topic, nil)
	for _, config := range resource.Configs {
		if _, asked := names[config.Key]; asked {
			found[config.Key] = config.MaybeValue()
		}
	}
	return found, errors.Join(err, resource.Err)
}

func (c *client) offsets(ctx context.Context, topic string) ([2]int64, error) {
	starts, err1 := c.admin.ListStartOffsets(ctx, topic)
	ends, err2 := c.admin.ListEndOffsets(ctx, topic)
	start, _ := starts.Lookup(topic, 0)
	end, _ := ends.Lookup(topic, 0)
	return [2]int64{start.Offset, end.Offset}, errors.Join(err1, err2, start.Err, end.Err)
}
