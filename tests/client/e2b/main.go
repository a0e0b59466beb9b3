// Drives machines as the orchestrator of E2B does: it keeps guest memory by itself. A snapshot is the state alone, memory is
// read out of the monitor's process, and a machine that goes on gets its pages from here, by userfaultfd.
//
//	e2b -monitor FILE -kernel GUEST -work DIRECTORY
//
// The guest is the bare-metal "survivor", which notices lost memory. Says "call NAME passed|refused" for each call.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

var (
	monitor = flag.String("monitor", "", "the binary that takes Firecracker's place")
	kernel  = flag.String("kernel", "", "the guest")
	work    = flag.String("work", "", "a directory for files")
)

const patience = 60 * time.Second

func file(name string) string { return filepath.Join(*work, name) }

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2b:", err)
		os.Exit(1)
	}
}

// --- The API, with the models that the orchestrator has generated for it -------------------------------------------

type machine struct {
	client  *http.Client
	process *exec.Cmd
	keys    io.WriteCloser
	console *bufio.Reader
}

type mapping struct {
	BaseHostVirtAddr *uint64 `json:"base_host_virt_addr"`
	Size             *uint64 `json:"size"`
	Offset           *uint64 `json:"offset"`
	PageSize         *uint64 `json:"page_size"`
}

func start(name string) *machine {
	socket := file(name + ".socket")
	m := &machine{process: exec.Command(*monitor, "--api-sock", socket)}
	m.process.Stderr = os.Stderr
	var err error
	m.keys, err = m.process.StdinPipe()
	must(err)
	output, err := m.process.StdoutPipe()
	must(err)
	m.console = bufio.NewReader(output)
	must(m.process.Start())
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", socket)
	}
	m.client = &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: patience}
	for end := time.Now().Add(patience); ; {
		// Not by its file, which is there before it listens.
		if connection, err := dial(context.Background(), "", ""); err == nil {
			connection.Close()
			return m
		}
		if time.Now().After(end) {
			must(fmt.Errorf("%s does not listen on %s", *monitor, socket))
		}
	}
}

func (m *machine) send(method, path string, body any) (int, []byte) {
	var text io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		must(err)
		text = bytes.NewReader(encoded)
	}
	request, err := http.NewRequest(method, "http://localhost"+path, text)
	must(err)
	request.Header.Set("Content-Type", "application/json")
	answer, err := m.client.Do(request)
	must(err)
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	must(err)
	return answer.StatusCode, said
}

func (m *machine) do(method, path string, body any) {
	if status, said := m.send(method, path, body); status != http.StatusNoContent {
		must(fmt.Errorf("%s %s: %d %s", method, path, status, said))
	}
	fmt.Printf("call %s %s passed\n", method, path)
}

func (m *machine) get(path string, into any) {
	status, said := m.send(http.MethodGet, path, nil)
	if status != http.StatusOK {
		must(fmt.Errorf("GET %s: %d %s", path, status, said))
	}
	must(json.Unmarshal(said, into))
	fmt.Printf("call GET %s passed\n", path)
}

// What Mayfly does not have, and says so.
func (m *machine) refused(method, path string, body any, words string) {
	status, said := m.send(method, path, body)
	if status != http.StatusBadRequest || !strings.Contains(string(said), words) {
		must(fmt.Errorf("%s %s is to be refused, as %q: %d %s", method, path, words, status, said))
	}
	fmt.Printf("call %s %s refused\n", method, path)
}

type object = map[string]any

func (m *machine) pause()  { m.do("PATCH", "/vm", object{"state": "Paused"}) }
func (m *machine) resume() { m.do("PATCH", "/vm", object{"state": "Resumed"}) }

// The orchestrator names no memory file.
func (m *machine) createSnapshot(state string) {
	m.do("PUT", "/snapshot/create", object{"snapshot_type": "Full", "snapshot_path": file(state)})
}

func (m *machine) waitFor(words string) {
	for {
		line, err := m.console.ReadString('\n')
		if err != nil {
			must(fmt.Errorf("the guest does not say %q: %w", words, err))
		}
		if strings.Contains(line, words) {
			return
		}
	}
}

// The guest checks all of its memory, and changes a third of it.
func (m *machine) round(number int) {
	_, err := io.WriteString(m.keys, "r")
	must(err)
	m.waitFor(fmt.Sprintf("round %d ok", number))
}

// The orchestrator kills a machine only if this does not end it.
func (m *machine) stop() {
	must(m.process.Process.Signal(syscall.SIGTERM))
	_ = m.process.Wait()
}

// --- Memory, read from outside ---------------------------------------------------------------------------------------

type region struct{ address, size, offset, pageSize uint64 }

func (m *machine) regions() []region {
	var answer struct {
		Mappings []mapping `json:"mappings"`
	}
	m.get("/memory/mappings", &answer)
	var regions []region
	for _, each := range answer.Mappings {
		if each.BaseHostVirtAddr == nil || each.Size == nil || each.Offset == nil || each.PageSize == nil {
			must(fmt.Errorf("a region lacks a field"))
		}
		regions = append(regions, region{*each.BaseHostVirtAddr, *each.Size, *each.Offset, *each.PageSize})
	}
	return regions
}

func isSet(bitmap []uint64, page uint64) bool { return bitmap[page/64]>>(page%64)&1 == 1 }

// export puts the pages that `want` names over what `memory` has.
func (m *machine) export(memory []byte, want func(page uint64) bool) (copied int) {
	for _, region := range m.regions() {
		for at := uint64(0); at < region.size; at += region.pageSize {
			offset := region.offset + at
			if !want(offset / region.pageSize) {
				continue
			}
			page := memory[offset : offset+region.pageSize]
			here := syscall.Iovec{Base: &page[0], Len: region.pageSize}
			there := [2]uint64{region.address + at, region.pageSize} // an iovec of the other process
			const processVMReadv = 310
			read, _, number := syscall.Syscall6(processVMReadv, uintptr(m.process.Process.Pid),
				uintptr(unsafe.Pointer(&here)), 1, uintptr(unsafe.Pointer(&there)), 1, 0)
			if number != 0 || uint64(read) != region.pageSize {
				must(fmt.Errorf("process_vm_readv: %d bytes, %w", read, number))
			}
			copied++
		}
	}
	return copied
}

// exportAll is for a machine that was booted: what is resident and not empty.
func (m *machine) exportAll(memory []byte) {
	var info struct {
		Resident []uint64 `json:"resident"`
		Empty    []uint64 `json:"empty"`
	}
	m.get("/memory", &info)
	count := m.export(memory, func(page uint64) bool { return isSet(info.Resident, page) && !isSet(info.Empty, page) })
	if count == 0 || count > len(memory)/4096/2 {
		must(fmt.Errorf("%d pages of an almost idle machine are neither zero nor absent", count))
	}
}

// exportDirty is for one that went on from a snapshot: what it wrote over that.
func (m *machine) exportDirty(memory []byte) {
	var info struct {
		Bitmap []uint64 `json:"bitmap"`
	}
	m.get("/memory/dirty", &info)
	if m.export(memory, func(page uint64) bool { return isSet(info.Bitmap, page) }) == 0 {
		must(fmt.Errorf("a machine that worked has no dirty pages"))
	}
}

// --- Pages for a machine that goes on --------------------------------------------------------------------------------

type handshake []struct {
	Base     uint64 `json:"base_host_virt_addr"`
	Size     uint64 `json:"size"`
	Offset   uint64 `json:"offset"`
	PageSize uint64 `json:"page_size"`
}

// servePages takes one machine's faults, until it is gone.
func servePages(listener *net.UnixListener, memory []byte) {
	connection, err := listener.AcceptUnix()
	must(err)
	text, control := make([]byte, 4096), make([]byte, 64)
	count, controlCount, _, _, err := connection.ReadMsgUnix(text, control)
	must(err)
	var regions handshake
	must(json.Unmarshal(text[:count], &regions))
	messages, err := syscall.ParseSocketControlMessage(control[:controlCount])
	must(err)
	descriptors, err := syscall.ParseUnixRights(&messages[0])
	must(err)
	must(syscall.SetNonblock(descriptors[0], false))
	message := make([]byte, 32)
	for {
		if count, err := syscall.Read(descriptors[0], message); err == syscall.EINTR {
			continue
		} else if err != nil || count != len(message) {
			return
		}
		address := *(*uint64)(unsafe.Pointer(&message[16]))
		for _, region := range regions {
			if address < region.Base || address >= region.Base+region.Size {
				continue
			}
			page := (address - region.Base) / region.PageSize * region.PageSize
			copyPage(descriptors[0], region.Base+page, memory[region.Offset+page:][:region.PageSize])
		}
	}
}

func copyPage(userfault int, to uint64, page []byte) {
	const uffdioCopy = 0xc028aa03
	order := [5]uint64{to, uint64(uintptr(unsafe.Pointer(&page[0]))), uint64(len(page)), 0, 0}
	_, _, number := syscall.Syscall(syscall.SYS_IOCTL, uintptr(userfault), uffdioCopy, uintptr(unsafe.Pointer(&order)))
	if number != 0 && number != syscall.EEXIST && number != syscall.ESRCH && number != syscall.EAGAIN {
		must(fmt.Errorf("UFFDIO_COPY: %w", number))
	}
}

// goOn loads a state, whose memory this process gives.
func goOn(state string, memory []byte) *machine {
	socket := file(state + ".uffd")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(err)
	go servePages(listener, memory)
	m := start(state)
	m.do("PUT", "/snapshot/load", object{"resume_vm": false, "snapshot_path": file(state),
		"mem_backend": object{"backend_type": "Uffd", "backend_path": socket}})
	m.resume()
	return m
}

func main() {
	flag.Parse()
	m := start("first")
	m.refused("GET", "/memory", nil, "after the machine has started")
	m.do("PUT", "/metrics", object{"metrics_path": file("metrics")})
	m.do("PUT", "/boot-source", object{"boot_args": "console=ttyS0", "kernel_image_path": *kernel})
	must(os.WriteFile(file("rootfs"), make([]byte, 1<<20), 0o600))
	m.do("PUT", "/drives/rootfs", object{"drive_id": "rootfs", "path_on_host": file("rootfs"), "is_root_device": true,
		"is_read_only": false, "io_engine": "Async"})
	m.do("PUT", "/machine-config", object{"vcpu_count": 2, "mem_size_mib": 128, "smt": true, "track_dirty_pages": false})
	m.refused("PUT", "/entropy", object{"rate_limiter": object{}}, "Mayfly has no entropy device")
	m.do("PUT", "/actions", object{"action_type": "InstanceStart"})
	m.waitFor("survivor ready")
	m.round(1)
	m.refused("GET", "/memory/dirty", nil, "while the machine is paused")
	m.pause()
	m.createSnapshot("a")
	memory := make([]byte, 128<<20)
	m.exportAll(memory)
	m.do("PUT", "/actions", object{"action_type": "FlushMetrics"})
	m.stop()

	// Each next machine goes on from what the one before it had, and is read while it is served.
	for number, state := range []string{"a", "b", "c"} {
		m := goOn(state, memory)
		m.do("PATCH", "/drives/rootfs", object{"drive_id": "rootfs", "rate_limiter": object{}})
		m.round(number + 2)
		m.pause()
		m.refused("PUT", "/snapshot/create", object{"snapshot_type": "Diff", "snapshot_path": file("no")}, "mem_file_path is absent")
		next := string(rune(state[0] + 1))
		m.createSnapshot(next)
		changed := append([]byte(nil), memory...)
		m.exportDirty(changed)
		m.stop()
		memory = changed
	}
	m = goOn("d", memory)
	m.round(5)
	_, err := io.WriteString(m.keys, "q")
	must(err)
	m.waitFor("GUEST PASS")
	must(m.process.Wait())
}
