package contract

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

type check struct {
	name string
	// run gives words to add to "ok".
	run func() (string, error)
}

type checks struct {
	client Client
	prefix string
	count  int
}

// Run is the main function of a family's program.
func Run(connect func(bootstrap string) (Client, error)) {
	bootstrap := flag.String("bootstrap", "", "HOST:PORT")
	prefix := flag.String("prefix", "", "of names of topics and groups")
	count := flag.Int("records", 100_000, "per codec")
	only := flag.String("only", "", "one check, by hand")
	member := flag.String("member", "", "GROUP,TOPIC: be a member until killed")
	flag.Parse()
	client, err := connect(*bootstrap)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if *member != "" {
		group, topic, _ := strings.Cut(*member, ",")
		if _, err := client.Join(group, topic, ""); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	if err := proveComparison(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	all := &checks{client, *prefix, *count}
	var lanes sync.WaitGroup
	for _, lane := range all.lanes() {
		lanes.Go(func() { perform(lane, *only) })
	}
	lanes.Wait()
	perform([]check{{"restart", all.restart}}, *only)
}

// lanes run side by side, the checks of one after another, so that waiting and working overlap.
func (c *checks) lanes() [][]check {
	working := []check{{"create-topic", c.createTopic}}
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		working = append(working, check{"codec-" + codec, func() (string, error) { return "", c.codec(codec) }})
	}
	working = append(working,
		check{"seek-offset", c.seekOffset}, check{"seek-time", c.seekTime}, check{"pause-resume", c.pauseResume},
		check{"admin", func() (string, error) { return c.client.AdminRoundTrip(c.prefix + "-admin") }})
	return [][]check{
		working,
		{{"group-of-three", c.groupOfThree}, {"commit-sync", c.commitSync}},
		{{"member-crash", c.memberCrash}},
		{{"static-rejoin", c.staticRejoin}, {"commit-async", c.commitAsync}},
	}
}

func perform(lane []check, only string) {
	for _, check := range lane {
		if only != "" && only != check.name {
			continue
		}
		words, err := check.run()
		if err != nil {
			say("check " + check.name + " FAILED " + strings.Join(strings.Fields(err.Error()), " "))
		} else {
			say(strings.TrimSpace("check " + check.name + " ok " + words))
		}
	}
}

var said sync.Mutex

func say(line string) {
	said.Lock()
	defer said.Unlock()
	fmt.Println(line)
}

// waitFor looks until it is so, an error comes or time is up.
func waitFor(what string, max time.Duration, look func() (bool, error)) error {
	end := time.Now().Add(max)
	for {
		so, err := look()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if so {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %v", what, max)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// restarted is closed when the runner says so.
func restarted() <-chan struct{} {
	told := make(chan struct{})
	go func() {
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		if line == "restarted\n" {
			close(told)
		}
	}()
	return told
}
