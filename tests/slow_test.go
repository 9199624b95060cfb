package tests

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// slow runs a command behind three pipes that pass so many bytes a second, in small pieces: slow RATE COMMAND ARGUMENT...
func slow() {
	rate, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(2)
	}
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	errs, errErr := cmd.StderrPipe()
	if inErr != nil || outErr != nil || errErr != nil || cmd.Start() != nil {
		os.Exit(2)
	}
	done := make(chan struct{}, 2)
	go func() { drip(in, os.Stdin, rate); in.Close() }()
	go func() { drip(os.Stdout, out, rate); done <- struct{}{} }()
	go func() { drip(os.Stderr, errs, rate); done <- struct{}{} }()
	<-done
	<-done
	cmd.Wait()
	os.Exit(cmd.ProcessState.ExitCode())
}

func drip(w io.Writer, r io.Reader, rate int) {
	buf := make([]byte, 700)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
