package contract

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"
)

const groupPartitions = 6

// sharedOut waits until each partition has one member and each member at least one partition.
func sharedOut(what string, max time.Duration, members ...Member) error {
	return waitFor(what, max, func() (bool, error) {
		var all []int32
		for _, member := range members {
			assigned := member.Assigned()
			if err := member.Err(); err != nil || len(assigned) == 0 {
				return false, err
			}
			all = append(all, assigned...)
		}
		slices.Sort(all)
		return slices.Equal(all, []int32{0, 1, 2, 3, 4, 5}), nil
	})
}

func leave(members ...Member) error {
	var err error
	for _, member := range members {
		err = errors.Join(err, member.Leave())
	}
	return err
}

func (c *checks) groupOfThree() (string, error) {
	group := c.prefix + "-three"
	topic, err := c.filled("three", 600, groupPartitions)
	if err != nil {
		return "", err
	}
	members := make([]Member, 3)
	for at := range members {
		if members[at], err = c.client.Join(group, topic, ""); err != nil {
			return "", err
		}
	}
	if err := sharedOut("three members share six partitions", WaitMax, members...); err != nil {
		return "", err
	}
	gone := members[2]
	if err := errors.Join(readBy(600, members...), gone.Leave()); err != nil {
		return "", err
	}
	if err := sharedOut("two members share six partitions", WaitMax, members[:2]...); err != nil {
		return "", err
	}
	if err := errors.Join(c.produce(topic, "none", 600, 900), readBy(900, members...)); err != nil {
		return "", err
	}
	if members[2], err = c.client.Join(group, topic, ""); err != nil {
		return "", err
	}
	if err := sharedOut("a third joins again", WaitMax, members...); err != nil {
		return "", err
	}
	err = errors.Join(c.produce(topic, "none", 900, 1200), readBy(1200, append(members, gone)...))
	return "", errors.Join(err, leave(members...))
}

// readBy waits until the members read all records between them; whoever takes a partition over may begin anew.
func readBy(count int, members ...Member) error {
	var seen []Seen
	err := waitFor(fmt.Sprintf("%d records", count), WaitMax, func() (bool, error) {
		seen = seen[:0]
		distinct := map[string]bool{}
		for _, member := range members {
			if err := member.Err(); err != nil {
				return false, err
			}
			seen = append(seen, member.Seen()...)
		}
		for _, record := range seen {
			distinct[record.Value] = true
		}
		return len(distinct) >= count, nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(seen, func(one, other Seen) int {
		return cmp.Or(cmp.Compare(one.Partition, other.Partition), cmp.Compare(one.Offset, other.Offset))
	})
	return Compare(seen, count, true)
}

func (c *checks) memberCrash() (string, error) {
	group := c.prefix + "-crash"
	topic, err := c.topic("crash", groupPartitions)
	if err != nil {
		return "", err
	}
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	doomed := exec.Command(program, append(os.Args[1:], "--member", group+","+topic)...)
	// It ends with this pipe, should this program end first.
	if _, err := doomed.StdinPipe(); err != nil {
		return "", err
	}
	if err := doomed.Start(); err != nil {
		return "", err
	}
	kill := func() {
		_ = doomed.Process.Kill()
		_ = doomed.Wait()
	}
	defer kill()
	survivor, err := c.client.Join(group, topic, "")
	if err != nil {
		return "", err
	}
	err = waitFor("two members share the partitions", WaitMax, func() (bool, error) {
		share := len(survivor.Assigned())
		return 0 < share && share < groupPartitions, survivor.Err()
	})
	if err != nil {
		return "", err
	}
	kill()
	died := time.Now()
	time.Sleep(time.Second)
	if len(survivor.Assigned()) == groupPartitions {
		return "", errors.New("taken over at once, as if the member had left")
	}
	if err := sharedOut("the survivor has all", 30*time.Second, survivor); err != nil {
		return "", err
	}
	after := time.Since(died)
	if after < 2*time.Second {
		return "", fmt.Errorf("taken over after %v, before its session can have timed out", after)
	}
	return fmt.Sprintf("after %.1f s", after.Seconds()), survivor.Leave()
}

func (c *checks) staticRejoin() (string, error) {
	group := c.prefix + "-static"
	topic, err := c.topic("static", groupPartitions)
	if err != nil {
		return "", err
	}
	first, err1 := c.client.Join(group, topic, "instance-a")
	second, err2 := c.client.Join(group, topic, "instance-b")
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	if err := sharedOut("two members share the partitions", WaitMax, first, second); err != nil {
		return "", err
	}
	time.Sleep(time.Second)
	before, others, generation := first.Assigned(), second.Assigned(), second.Generation()
	if err := first.Leave(); err != nil {
		return "", err
	}
	again, err := c.client.Join(group, topic, "instance-a")
	if err != nil {
		return "", err
	}
	err = waitFor("the member is back", WaitMax, func() (bool, error) { return len(again.Assigned()) > 0, again.Err() })
	if err != nil {
		return "", err
	}
	time.Sleep(2 * time.Second)
	if !slices.Equal(again.Assigned(), before) || !slices.Equal(second.Assigned(), others) {
		return "", fmt.Errorf("they had %v and %v, and have %v and %v", before, others, again.Assigned(), second.Assigned())
	}
	if second.Generation() != generation {
		return "", fmt.Errorf("the other member was in generation %d and is in %d", generation, second.Generation())
	}
	return "", leave(again, second)
}
