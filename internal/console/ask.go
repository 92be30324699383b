package console

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// CanAsk reports whether somebody can answer at in: whether it is a terminal.
func CanAsk(in *os.File) bool { return IsTerminal(in) }

// IsTerminal reports whether a stream is a terminal.
func IsTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// Ask shows a question on out and returns the line that is typed at in, without the space around it. An end of input without a line is
// an empty answer. Ask gives up when ctx ends; where the terminal then never answers, its reader ends with the process.
func Ask(ctx context.Context, in io.Reader, out io.Writer, question string) (string, error) {
	if _, err := fmt.Fprint(out, question); err != nil {
		return "", err
	}
	answered := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(in).ReadString('\n')
		answered <- strings.TrimSpace(line)
	}()
	select {
	case line := <-answered:
		return line, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// Confirm asks a question that ends in "[y/N] ". Nothing but "y" or "yes" agrees.
func Confirm(ctx context.Context, in io.Reader, out io.Writer, question string) (bool, error) {
	line, err := Ask(ctx, in, out, question)
	line = strings.ToLower(line)
	return line == "y" || line == "yes", err
}
