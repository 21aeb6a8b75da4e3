package contract

import (
	"errors"
	"fmt"
	"maps"
	"time"
)

const partitions = 3

func (c *checks) topic(name string, partitions int) (string, error) {
	topic := c.prefix + "-" + name
	if err := c.client.CreateTopic(topic, partitions, nil); err != nil {
		return "", err
	}
	return topic, waitFor("the topic", WaitMax, func() (bool, error) {
		count, err := c.client.PartitionCount(topic)
		return count == partitions, err
	})
}

func (c *checks) filled(name string, count, partitions int) (string, error) {
	topic, err := c.topic(name, partitions)
	if err != nil {
		return "", err
	}
	return topic, c.produce(topic, "none", 0, count)
}

func (c *checks) produce(topic, codec string, from, to int) error {
	producer, err := c.client.Producer(codec)
	if err != nil {
		return err
	}
	for number := from; number < to; number++ {
		producer.Send(topic, -1, RecordOf(number))
	}
	return producer.Close()
}

func (c *checks) reader(topic string, partitions int) (Reader, error) {
	offsets := map[int32]int64{}
	for partition := range partitions {
		offsets[int32(partition)] = 0
	}
	return c.client.Reader(topic, offsets)
}

// read reads until count records came, then a little longer: there may be more than should be.
func read(reader Reader, count int) ([]Seen, error) {
	var seen []Seen
	end := time.Now().Add(WaitMax)
	for len(seen) < count && time.Now().Before(end) {
		records, err := reader.Poll(500 * time.Millisecond)
		if err != nil {
			return seen, err
		}
		seen = append(seen, records...)
	}
	more, err := reader.Poll(200 * time.Millisecond)
	return append(seen, more...), err
}

// readWhole compares all that is in a topic.
func (c *checks) readWhole(topic string, count int) error {
	reader, err := c.reader(topic, partitions)
	if err != nil {
		return err
	}
	seen, err := read(reader, count)
	if err != nil {
		return err
	}
	return errors.Join(Compare(seen, count, false), reader.Close())
}

func (c *checks) createTopic() (string, error) {
	topic := c.prefix + "-created"
	if err := c.client.CreateTopic(topic, 5, map[string]string{"retention.ms": "86400000"}); err != nil {
		return "", err
	}
	err := waitFor("five partitions", WaitMax, func() (bool, error) {
		count, err := c.client.PartitionCount(topic)
		return count == 5, err
	})
	if err != nil {
		return "", err
	}
	if err := c.client.CreateTopic(topic, 5, nil); !errors.Is(err, ErrTopicExists) {
		return "", fmt.Errorf("a second topic of the same name: %v", err)
	}
	return "", nil
}

func (c *checks) codec(codec string) error {
	topic, err := c.topic("codec-"+codec, partitions)
	if err != nil {
		return err
	}
	if err := c.produce(topic, codec, 0, c.count); err != nil {
		return err
	}
	return c.readWhole(topic, c.count)
}

func (c *checks) seekOffset() (string, error) {
	topic, err := c.filled("seek", 300, partitions)
	if err != nil {
		return "", err
	}
	reader, err := c.reader(topic, partitions)
	if err != nil {
		return "", err
	}
	defer reader.Close()
	seen, err := read(reader, 300)
	if err := errors.Join(err, Compare(seen, 300, false)); err != nil {
		return "", err
	}
	if err := reader.Seek(1, 17); err != nil {
		return "", err
	}
	return "", waitFor("records after the seek", WaitMax, func() (bool, error) {
		seen, err := reader.Poll(200 * time.Millisecond)
		if err != nil || len(seen) == 0 {
			return false, err
		}
		if seen[0].Partition != 1 || seen[0].Offset != 17 {
			return false, fmt.Errorf("1/17 expected, %d/%d came", seen[0].Partition, seen[0].Offset)
		}
		return true, nil
	})
}

func (c *checks) seekTime() (string, error) {
	topic, err := c.filled("time", 50, 1)
	if err != nil {
		return "", err
	}
	time.Sleep(100 * time.Millisecond)
	between := time.Now().Truncate(time.Millisecond)
	time.Sleep(100 * time.Millisecond)
	if err := c.produce(topic, "none", 50, 100); err != nil {
		return "", err
	}
	reader, err := c.reader(topic, 1)
	if err != nil {
		return "", err
	}
	defer reader.Close()
	// franz-go seeks only in partitions that gave records before, and what it fetched ahead may not come after the seek.
	if seen, err := read(reader, 100); err != nil || len(seen) != 100 {
		return "", errors.Join(err, fmt.Errorf("100 records expected, %d came", len(seen)))
	}
	first, err1 := reader.OffsetAt(0, time.UnixMilli(1))
	offset, err2 := reader.OffsetAt(0, between)
	late, err3 := reader.OffsetAt(0, between.Add(time.Hour))
	if err := errors.Join(err1, err2, err3); err != nil {
		return "", err
	}
	if first != 0 || offset != 50 || late != -1 && late != 100 {
		return "", fmt.Errorf("0, 50 and none expected, %d, %d and %d came", first, offset, late)
	}
	if err := reader.Seek(0, offset); err != nil {
		return "", err
	}
	seen, err := read(reader, 50)
	if err != nil {
		return "", err
	}
	for at, record := range seen {
		if record.Offset != int64(50+at) || record.Time.Before(between) {
			return "", fmt.Errorf("offset %d expected after the seek, %d of %v came", 50+at, record.Offset, record.Time)
		}
	}
	if len(seen) != 50 {
		return "", fmt.Errorf("50 records expected after the seek, %d came", len(seen))
	}
	return "", nil
}

func (c *checks) pauseResume() (string, error) {
	topic, err := c.filled("pause", 300, partitions)
	if err != nil {
		return "", err
	}
	reader, err := c.reader(topic, partitions)
	if err != nil {
		return "", err
	}
	defer reader.Close()
	seen, err := read(reader, 300)
	if err := errors.Join(err, Compare(seen, 300, false)); err != nil {
		return "", err
	}
	reader.Pause(1)
	if err := c.produce(topic, "none", 300, 600); err != nil {
		return "", err
	}
	came := map[int32]int{}
	poll := func() error {
		records, err := reader.Poll(100 * time.Millisecond)
		for _, record := range records {
			came[record.Partition]++
		}
		seen = append(seen, records...)
		return err
	}
	err = waitFor("records of the partitions that go on", WaitMax, func() (bool, error) {
		err := poll()
		return len(came) > 1, err
	})
	if err != nil {
		return "", err
	}
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		if err := poll(); err != nil {
			return "", err
		}
	}
	if came[0] == 0 || came[1] != 0 || came[2] == 0 {
		return "", fmt.Errorf("records of partitions 0 and 2 expected while 1 is paused, %v came", came)
	}
	reader.Resume(1)
	err = waitFor("the paused records", WaitMax, func() (bool, error) { return len(seen) >= 600, poll() })
	return "", errors.Join(err, poll(), Compare(seen, 600, false))
}

func (c *checks) commitSync() (string, error) {
	return "", c.committed("sync", c.client.Join, Member.CommitSync)
}

func (c *checks) commitAsync() (string, error) {
	join := c.client.Join
	if client, ok := c.client.(AutoCommitter); ok {
		join = client.JoinAutoCommitting
	}
	return "", c.committed("async", join, Member.CommitAsync)
}

type join = func(group, topic, instance string) (Member, error)

func (c *checks) committed(name string, join join, commit func(Member, map[int32]int64) error) error {
	group := c.prefix + "-commit-" + name
	topic, err := c.filled("commit-"+name, 600, partitions)
	if err != nil {
		return err
	}
	first, err := join(group, topic, "")
	if err != nil {
		return err
	}
	if err := waitFor("600 records", WaitMax, func() (bool, error) { return len(first.Seen()) == 600, first.Err() }); err != nil {
		return err
	}
	offsets := map[int32]int64{}
	for _, record := range first.Seen() {
		offsets[record.Partition] = record.Offset + 1
	}
	for partition := range offsets {
		offsets[partition] /= 2
	}
	if err := errors.Join(commit(first, offsets), first.Leave()); err != nil {
		return err
	}
	second, err := c.client.Join(group, topic, "")
	if err != nil {
		return err
	}
	came := map[int32]int64{}
	err = waitFor("records after the commit", WaitMax, func() (bool, error) {
		for _, record := range second.Seen() {
			if _, known := came[record.Partition]; !known {
				came[record.Partition] = record.Offset
			}
		}
		return len(came) == partitions, second.Err()
	})
	if err == nil && !maps.Equal(came, offsets) {
		err = fmt.Errorf("committed %v, a new member began at %v", offsets, came)
	}
	return errors.Join(err, second.Leave())
}

func (c *checks) restart() (string, error) {
	group := c.prefix + "-restart"
	topic, err := c.topic("restart", partitions)
	if err != nil {
		return "", err
	}
	member, err := c.client.Join(group, topic, "")
	if err != nil {
		return "", err
	}
	if err := waitFor("a member", WaitMax, func() (bool, error) { return len(member.Assigned()) > 0, member.Err() }); err != nil {
		return "", err
	}
	producer, err := c.client.Producer("gzip")
	if err != nil {
		return "", err
	}
	sent := 0
	told := restarted()
	giveUp := time.After(60 * time.Second)
	var end <-chan time.Time
	for going := true; going; {
		for range 20 {
			producer.Send(topic, -1, RecordOf(sent))
			sent++
		}
		if sent == 1000 {
			say("restart please")
		}
		select {
		case <-told:
			told, end = nil, time.After(2*time.Second)
		case <-end:
			going = false
		case <-giveUp:
			return "", errors.New("the broker was not back within 60 s")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := producer.Close(); err != nil {
		return "", err
	}
	if err := c.readWhole(topic, sent); err != nil {
		return "", err
	}
	if err := errors.Join(readBy(sent, member), member.Leave()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d records", sent), nil
}
