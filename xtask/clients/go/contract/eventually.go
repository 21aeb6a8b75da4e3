package contract

import (
	"fmt"
	"reflect"
	"time"
)

// Eventually looks until what is seen is as expected: a broker may show a change a little later than it answers.
func Eventually[T any](what string, expected T, look func() (T, error)) error {
	end := time.Now().Add(WaitMax)
	for {
		seen, err := look()
		if err == nil && reflect.DeepEqual(seen, expected) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: %v expected, %v came (%v)", what, expected, seen, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
