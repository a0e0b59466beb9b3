package main

import (
	"fmt"
	"io"
	"regexp"
	"sync"
	"time"
)

// A guest's serial console: what it has said, and a way to type.
type console struct {
	keys io.Writer

	mutex sync.Mutex
	text  []byte
	more  chan struct{} // closed when text has grown
}

func newConsole(keys io.Writer) *console {
	return &console{keys: keys, more: make(chan struct{})}
}

// Write takes what the guest says.
func (c *console) Write(text []byte) (int, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.text = append(c.text, text...)
	close(c.more)
	c.more = make(chan struct{})
	return len(text), nil
}

func (c *console) said() (string, <-chan struct{}) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return string(c.text), c.more
}

func (c *console) typeLine(line string) error {
	_, err := io.WriteString(c.keys, line+"\n")
	return err
}

// waitFor waits until the guest has said something that matches, and gives the match's groups.
func (c *console) waitFor(pattern string) ([]string, error) {
	wanted := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		text, more := c.said()
		if found := wanted.FindStringSubmatch(text); found != nil {
			return found, nil
		}
		select {
		case <-more:
		case <-deadline:
			return nil, fmt.Errorf("the guest does not say %q; it said:\n%s", pattern, text)
		}
	}
}

// ask types a command line, and waits for what its output must match. The terminal shows typed lines, too: a pattern must
// not match its own command.
func (c *console) ask(line, pattern string) error {
	if err := c.typeLine(line); err != nil {
		return err
	}
	_, err := c.waitFor(pattern)
	return err
}
