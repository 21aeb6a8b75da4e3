package contract

import (
	"fmt"
	"slices"
)

// proveComparison fails when Compare lets a kind of loss pass.
func proveComparison() error {
	const count = 2 * keys
	sent := func() []Seen {
		seen := make([]Seen, count)
		var ends [partitions]int64
		for number := range seen {
			partition := number * 7919 % keys % partitions
			seen[number] = Seen{Record: RecordOf(number), Partition: int32(partition), Offset: ends[partition]}
			ends[partition]++
		}
		return seen
	}
	change := func(how func(*Seen), at int) func([]Seen) []Seen {
		return func(seen []Seen) []Seen {
			how(&seen[at])
			return seen
		}
	}
	damages := []struct {
		name string
		// repeatable is no loss where repetitions are let pass.
		repeatable bool
		damage     func([]Seen) []Seen
	}{
		{"the last one missing", false, func(seen []Seen) []Seen { return seen[:count-1] }},
		{"a hole", false, func(seen []Seen) []Seen { return slices.Delete(seen, 100, 101) }},
		{"one twice", true, func(seen []Seen) []Seen { return append(seen, seen[7]) }},
		{"one in place of another", false, change(func(seen *Seen) { seen.Value = RecordOf(11).Value }, 10)},
		{"another value", false, change(func(seen *Seen) { seen.Value += "x" }, 50)},
		{"another key", false, change(func(seen *Seen) { seen.Key = "key-1000" }, 50)},
		{"another order", false, func(seen []Seen) []Seen { slices.Reverse(seen); return seen }},
		{"a foreign one", false, change(func(seen *Seen) { seen.Record = RecordOf(9_999_999) }, 3)},
		{"a key in two partitions", false, change(func(seen *Seen) { seen.Partition = (seen.Partition + 1) % partitions }, keys+5)},
	}
	for _, damaged := range damages {
		if Compare(damaged.damage(sent()), count, false) == nil ||
			!damaged.repeatable && Compare(damaged.damage(sent()), count, true) == nil {
			return fmt.Errorf("the comparison does not notice %s", damaged.name)
		}
	}
	if err := Compare(sent(), count, false); err != nil {
		return err
	}
	return Compare(append(sent(), sent()...), count, true)
}
