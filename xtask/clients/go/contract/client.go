// Package contract holds the checks of a client family, written once for the Go clients. A client is an adapter behind
// Client; Run starts the checks, those that mostly wait beside those that mostly work, and prints one line for each. The
// contract itself is in xtask/src/clients/family.rs.
package contract

import (
	"errors"
	"time"
)

const (
	SessionTimeout    = 6 * time.Second
	HeartbeatInterval = 500 * time.Millisecond
	// WaitMax is the longest that anything is waited for.
	WaitMax = 45 * time.Second
)

// ErrTopicExists is what CreateTopic gives for a second topic of the same name.
var ErrTopicExists = errors.New("the topic exists")

type Record struct {
	Key, Value string
}

// Seen is a consumed record.
type Seen struct {
	Record
	Partition int32
	Offset    int64
	Time      time.Time
}

// Client is one client library.
type Client interface {
	CreateTopic(topic string, partitions int, configs map[string]string) error
	// PartitionCount is 0 for a topic that is not there.
	PartitionCount(topic string) (int, error)
	// Producer sends with acks=all, in order.
	Producer(codec string) (Producer, error)
	// Reader consumes without a group.
	Reader(topic string, offsets map[int32]int64) (Reader, error)
	// Join subscribes a member of a group that commits nothing by itself; instance may be empty.
	Join(group, topic, instance string) (Member, error)
	// AdminRoundTrip gives words on what was left out.
	AdminRoundTrip(topic string) (string, error)
}

// AutoCommitter is a client that can commit asynchronously only by a timer of its own.
type AutoCommitter interface {
	JoinAutoCommitting(group, topic, instance string) (Member, error)
}

type Producer interface {
	// Send does not wait for the ack; with partition -1 the key decides.
	Send(topic string, partition int32, record Record)
	// Close waits for all acks and fails when one did not come.
	Close() error
}

type Reader interface {
	// Poll gives what came within the time, at least one record when there is one.
	Poll(max time.Duration) ([]Seen, error)
	// Seek moves the position in a partition that gave records before.
	Seek(partition int32, offset int64) error
	Pause(partition int32)
	Resume(partition int32)
	// OffsetAt is the first offset at or after a time, -1 or the end when nothing is that late.
	OffsetAt(partition int32, at time.Time) (int64, error)
	Close() error
}

// Member consumes in the background until it leaves.
type Member interface {
	Assigned() []int32
	// Generation changes with each rebalance that the member sees.
	Generation() int32
	Seen() []Seen
	// Err is what ended it.
	Err() error
	CommitSync(offsets map[int32]int64) error
	CommitAsync(offsets map[int32]int64) error
	Leave() error
}
