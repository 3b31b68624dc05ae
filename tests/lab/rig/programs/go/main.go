// Who is connected to whom, as a Go program sees it.
//
//	names serve :80              the listener's protocol (262: MPTCP), then a line for each connection
//	names call 10.32.0.5:80 20   so many connections, one after the other; the last one's names
//
// With `go 1.24` or later in go.mod, net.Listen makes MPTCP listeners by default.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func serve(address string) {
	listener := must(net.Listen("tcp", address))
	must(listener.(*net.TCPListener).SyscallConn()).Control(func(fd uintptr) {
		fmt.Println(must(syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PROTOCOL)))
	})
	for {
		connection := must(listener.Accept())
		go func() {
			defer connection.Close()
			line := must(bufio.NewReader(connection).ReadString('\n'))
			fmt.Fprintf(connection, "%s", line)
			fmt.Println(connection.LocalAddr(), connection.RemoteAddr())
		}()
	}
}

func call(address string, count int) {
	for i := range count {
		connection := must(net.Dial("tcp", address))
		fmt.Fprintln(connection, i)
		answer := must(bufio.NewReader(connection).ReadString('\n'))
		if answer != fmt.Sprintln(i) {
			panic(answer)
		}
		if i == count-1 {
			fmt.Println(connection.LocalAddr(), connection.RemoteAddr())
		}
		connection.Close()
	}
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2])
	}
	call(os.Args[2], must(strconv.Atoi(os.Args[3])))
}
