package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// The tracer's output (strace -f -ttt -yy -xx) as events. A system call takes
// effect where it returned; what matters of a write to a socket is when it was
// entered, since from then on the other end may know.

// event is one system call.
type event struct {
	call string
	at   float64 // seconds since 1970, when it was entered
	path string  // of the descriptor, or the first path argument
	to   string  // second path of a rename
	off  int64   // of a positioned write, -1 for a plain one
	size int64   // of a truncation
	data []byte
	port int // of the other end, for a socket
	flag string
}

// readTrace calls fn for every event in the order described above.
func readTrace(path string, fn func(*event) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	begun := map[string]string{} // per thread: the line of an unfinished call
	for n := 1; ; n++ {
		line, err := r.ReadString('\n')
		if err != nil && (err != io.EOF || line != "") {
			return fmt.Errorf("read the trace: %w", err) // its last line must be whole
		}
		if err == io.EOF {
			return nil
		}
		if err := readLine(strings.TrimSuffix(line, "\n"), begun, fn); err != nil {
			return fmt.Errorf("line %d of the trace: %w", n, err)
		}
	}
}

func readLine(line string, begun map[string]string, fn func(*event) error) error {
	pid, rest, ok := strings.Cut(line, " ")
	if !ok {
		return errors.New("has no process id")
	}
	rest = strings.TrimLeft(rest, " ")
	stamp, rest, ok := strings.Cut(rest, " ")
	if !ok {
		return errors.New("has no time")
	}
	switch {
	case strings.HasPrefix(rest, "+++") || strings.HasPrefix(rest, "---"):
		return nil // exits and signals
	case strings.HasPrefix(rest, "<... "):
		_, tail, ok := strings.Cut(rest, " resumed>")
		first, known := begun[pid]
		if !ok || !known {
			return errors.New("resumes what was not begun")
		}
		delete(begun, pid)
		stamp, rest, _ = strings.Cut(first, " ")
		return finished(stamp, rest+tail, true, fn)
	case strings.HasSuffix(rest, " <unfinished ...>"):
		rest = strings.TrimSuffix(rest, " <unfinished ...>")
		begun[pid] = stamp + " " + rest
		return entered(stamp, rest, fn)
	}
	return finished(stamp, rest, false, fn)
}

// entered reports the write to a socket that has not returned yet.
func entered(stamp, text string, fn func(*event) error) error {
	if !strings.HasPrefix(text, "write(") {
		return nil
	}
	e, err := parseCall(stamp, text)
	if err != nil || e == nil || e.port == 0 {
		return err
	}
	return fn(e)
}

func finished(stamp, text string, resumed bool, fn func(*event) error) error {
	i := strings.LastIndex(text, ") = ")
	if i < 0 {
		return nil // killed inside the call: it has no effect that anybody saw
	}
	if result := strings.TrimLeft(text[i+4:], " "); strings.HasPrefix(result, "-1") || strings.HasPrefix(result, "?") {
		return nil
	}
	e, err := parseCall(stamp, text[:i])
	if err != nil || e == nil || e.port != 0 && resumed {
		return err
	}
	return fn(e)
}

// parseCall reads "name(arguments" without its closing bracket.
func parseCall(stamp, text string) (*event, error) {
	name, args, ok := strings.Cut(text, "(")
	if !ok {
		return nil, errors.New("is not a call")
	}
	at, err := strconv.ParseFloat(stamp, 64)
	if err != nil {
		return nil, err
	}
	e := &event{call: name, at: at, off: -1}
	a := strings.Split(args, ", ") // strings are hexadecimal: no comma inside
	switch name {
	case "write", "pwrite64":
		if len(a) < 3 {
			return nil, errors.New("has too few arguments")
		}
		if e.path, e.port, err = descriptor(a[0]); err != nil {
			return nil, err
		}
		if e.port == 0 && e.path == "" {
			return nil, nil // a pipe, an event counter, a Unix socket
		}
		if e.data, err = quoted(a[1]); err != nil {
			return nil, err
		}
		if name == "pwrite64" {
			if e.off, err = strconv.ParseInt(a[3], 10, 64); err != nil {
				return nil, err
			}
		}
		return e, nil
	case "fsync", "fdatasync", "ftruncate":
		if e.path, _, err = descriptor(a[0]); err != nil {
			return nil, err
		}
		if name == "ftruncate" {
			e.size, err = strconv.ParseInt(a[1], 10, 64)
		}
		return e, err
	case "openat":
		return e, openArgs(e, a[1:])
	case "open":
		e.call = "openat"
		return e, openArgs(e, a)
	case "unlinkat", "unlink":
		p, err := quoted(a[len(a)-1])
		if name == "unlinkat" {
			p, err = quoted(a[1])
		}
		e.call, e.path = "unlink", string(p)
		return e, err
	case "rename", "renameat", "renameat2":
		return e, renameArgs(e, a)
	case "creat", "writev", "pwritev", "pwritev2", "truncate", "fallocate", "link", "linkat", "symlink", "symlinkat", "copy_file_range", "sendfile", "sync_file_range":
		e.path = args
		return e, nil
	}
	return nil, fmt.Errorf("has the unexpected call %s", name)
}

func openArgs(e *event, a []string) error {
	if len(a) < 2 {
		return errors.New("has too few arguments")
	}
	p, err := quoted(a[0])
	e.path, e.flag = string(p), a[1]
	return err
}

func renameArgs(e *event, a []string) error {
	from, to := a[0], a[len(a)-1]
	if e.call != "rename" {
		from, to = a[1], a[3]
	}
	x, err := quoted(from)
	y, err2 := quoted(to)
	e.call, e.path, e.to = "rename", string(x), string(y)
	return errors.Join(err, err2)
}

// descriptor reads 7<path> or 7<TCP:[local->remote]>; a descriptor that is
// neither has no path and no port.
func descriptor(s string) (path string, port int, err error) {
	i := strings.IndexByte(s, '<')
	if i < 0 || !strings.HasSuffix(s, ">") {
		return "", 0, nil
	}
	inside := s[i+1 : len(s)-1]
	raw, err := unhex(inside)
	if err != nil {
		return "", 0, err
	}
	text := string(raw)
	switch {
	case strings.HasPrefix(text, "TCP:[") || strings.HasPrefix(text, "TCPv6:["):
		_, remote, ok := strings.Cut(text, "->")
		j := strings.LastIndexByte(remote, ':')
		if !ok || j < 0 {
			return "", 0, nil // a listener
		}
		port, err = strconv.Atoi(strings.TrimSuffix(remote[j+1:], "]"))
		return "", port, err
	case strings.HasPrefix(text, "/"):
		return text, 0, nil
	}
	return "", 0, nil
}

// quoted reads a string argument of the tracer.
func quoted(s string) ([]byte, error) {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return nil, fmt.Errorf("has a cut or unquoted string %.40q", s)
	}
	return unhex(s[1 : len(s)-1])
}

// unhex turns \x2f into /; other bytes stay.
func unhex(s string) ([]byte, error) {
	if !strings.Contains(s, `\x`) {
		return []byte(s), nil
	}
	var out bytes.Buffer
	out.Grow(len(s) / 4)
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out.WriteByte(s[i])
			continue
		}
		if i+3 >= len(s) || s[i+1] != 'x' {
			return nil, errors.New("has a string that is not hexadecimal")
		}
		hi, ok1 := nibble(s[i+2])
		lo, ok2 := nibble(s[i+3])
		if !ok1 || !ok2 {
			return nil, errors.New("has a string that is not hexadecimal")
		}
		out.WriteByte(hi<<4 | lo)
		i += 3
	}
	return out.Bytes(), nil
}

func nibble(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}
