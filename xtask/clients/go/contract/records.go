package contract

import (
	"fmt"
	"strconv"
)

const keys = 1000

// RecordOf is different for each number, with something for a codec to shorten; a thousand keys.
func RecordOf(number int) Record {
	mixed := uint32(number) * 2654435761
	return Record{
		Key: fmt.Sprintf("key-%03d", number*7919%keys),
		Value: fmt.Sprintf("%07d %08x what a codec can shorten: abcabcabcabcabcabcabc %08x",
			number, mixed, mixed^0x5A5A5A5A),
	}
}

// Compare finds all of 0..count: content, a key always in one partition, in the order sent within each partition, once
// each at offsets without holes; with repeated, later repetitions are let pass.
func Compare(seen []Seen, count int, repeated bool) error {
	if !repeated && len(seen) != count {
		return fmt.Errorf("%d records expected, %d came", count, len(seen))
	}
	type position struct {
		number int
		offset int64
	}
	found := make([]bool, count)
	last := map[int32]position{}
	partitionOf := map[string]int32{}
	distinct := 0
	for _, record := range seen {
		number := -1
		if len(record.Value) > 7 {
			number, _ = strconv.Atoi(record.Value[:7])
		}
		if number < 0 || number >= count || record.Record != RecordOf(number) {
			return fmt.Errorf("at %d/%d is %q %q", record.Partition, record.Offset, record.Key, record.Value)
		}
		if partition, known := partitionOf[record.Key]; known && partition != record.Partition {
			return fmt.Errorf("%s is in partitions %d and %d", record.Key, partition, record.Partition)
		}
		partitionOf[record.Key] = record.Partition
		if found[number] {
			if repeated {
				continue
			}
			return fmt.Errorf("record %d came twice, again at %d/%d", number, record.Partition, record.Offset)
		}
		found[number] = true
		distinct++
		before, known := last[record.Partition]
		if !known {
			before = position{-1, -1}
		}
		if number < before.number {
			return fmt.Errorf("record %d came after %d in partition %d", number, before.number, record.Partition)
		}
		if !repeated && record.Offset != before.offset+1 {
			return fmt.Errorf("offset %d came after %d in partition %d", record.Offset, before.offset, record.Partition)
		}
		last[record.Partition] = position{number, record.Offset}
	}
	if distinct != count {
		return fmt.Errorf("%d of %d records are missing", count-distinct, count)
	}
	return nil
}
