// The Go SDK drives a Linux guest through its whole life, by its own machine type; nothing but the binary's path says that
// it is not the SDK's usual monitor.
//
//	go_life -monitor FILE -kernel FILE -initrd FILE -root IMAGE -tap NAME -work DIRECTORY
//
// The TAP is up and has 10.9.0.1/24. Says what it does; ends with 0 where all went well.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	firecracker "github.com/firecracker-microvm/firecracker-go-sdk"
	models "github.com/firecracker-microvm/firecracker-go-sdk/client/models"
	ops "github.com/firecracker-microvm/firecracker-go-sdk/client/operations"
)

const (
	hostAddress  = "10.9.0.1"
	guestAddress = "10.9.0.2"
	guestMac     = "06:00:0a:09:00:02"

	// For anything that a software CPU does.
	patience = 240 * time.Second
)

// See tests/lab/harness/machine.py for the last one.
const kernelArguments = "console=ttyS0 quiet reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd"

var (
	monitor = flag.String("monitor", "", "the binary that takes the SDK's usual one's place")
	kernel  = flag.String("kernel", "", "a kernel that listens to its keyboard")
	initrd  = flag.String("initrd", "", "its initial RAM disk, with a shell on the console")
	root    = flag.String("root", "", "an image for the root device")
	tap     = flag.String("tap", "", "the name of a TAP")
	work    = flag.String("work", "", "a directory for files")
)

// One process of the monitor, and what comes out of it.
type machine struct {
	*firecracker.Machine
	name    string
	console *console
	log     *lockedBuffer
	metrics *lockedBuffer
}

// A buffer that one goroutine fills and another looks into.
type lockedBuffer struct {
	mutex  sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(text []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.Write(text)
}

func (b *lockedBuffer) String() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.buffer.String()
}

func file(name string) string { return filepath.Join(*work, name) }

// Every machine that was made, for the case that one is left.
var machines []*machine

// newMachine makes a machine that is not started yet. The configuration is the SDK's own; with a snapshot it wants fewer
// fields.
func newMachine(ctx context.Context, name string, config firecracker.Config, options ...firecracker.Opt) (*machine, error) {
	typed, keys, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	made := &machine{name: name, console: newConsole(keys), log: &lockedBuffer{}, metrics: &lockedBuffer{}}
	config.VMID = name
	config.SocketPath = file(name + ".socket")
	config.LogFifo = file(name + ".log")
	config.LogLevel = "Debug"
	config.FifoLogWriter = made.log
	config.MetricsFifo = file(name + ".metrics")
	command := firecracker.VMCommandBuilder{}.
		WithBin(*monitor).
		WithSocketPath(config.SocketPath).
		AddArgs("--id", name).
		WithStdin(typed).
		WithStdout(made.console).
		WithStderr(os.Stderr).
		Build(ctx)
	options = append([]firecracker.Opt{firecracker.WithProcessRunner(command)}, options...)
	made.Machine, err = firecracker.NewMachine(ctx, config, options...)
	if err != nil {
		return nil, err
	}
	machines = append(machines, made)
	// The SDK reads the log's FIFO; whoever uses it, that of the metrics.
	made.Handlers.FcInit = made.Handlers.FcInit.AppendAfter(firecracker.CreateLogFilesHandlerName, firecracker.Handler{
		Name: "read-metrics",
		Fn: func(context.Context, *firecracker.Machine) error {
			fifo, err := os.OpenFile(made.Cfg.MetricsFifo, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			go io.Copy(made.metrics, fifo)
			return nil
		},
	})
	return made, nil
}

func parentConfig() firecracker.Config {
	limit := firecracker.TokenBucketBuilder{}.WithBucketSize(100 << 20).WithRefillDuration(time.Second).Build()
	drives := firecracker.NewDrivesBuilder("").
		WithRootDrive(*root, firecracker.WithReadOnly(true)).
		AddDrive(file("small"), false,
			firecracker.WithDriveID("data"),
			firecracker.WithCacheType("Writeback"),
			firecracker.WithIoEngine("Async"),
			firecracker.WithRateLimiter(*firecracker.NewRateLimiter(limit, limit))).
		Build()
	return firecracker.Config{
		KernelImagePath: *kernel,
		InitrdPath:      *initrd,
		KernelArgs:      kernelArguments,
		Drives:          drives,
		NetworkInterfaces: firecracker.NetworkInterfaces{{
			StaticConfiguration: &firecracker.StaticNetworkConfiguration{
				MacAddress:  guestMac,
				HostDevName: *tap,
				IPConfiguration: &firecracker.IPConfiguration{
					IPAddr:  net.IPNet{IP: net.ParseIP(guestAddress), Mask: net.CIDRMask(24, 32)},
					Gateway: net.ParseIP(hostAddress),
					IfName:  "eth0",
				},
			},
			AllowMMDS:     true,
			InRateLimiter: firecracker.NewRateLimiter(limit, limit),
		}},
		MachineCfg: models.MachineConfiguration{
			VcpuCount:       firecracker.Int64(2),
			MemSizeMib:      firecracker.Int64(256),
			Smt:             firecracker.Bool(false),
			CPUTemplate:     models.CPUTemplateT2,
			TrackDirtyPages: true,
		},
		MmdsVersion: firecracker.MMDSv2,
	}
}

// state is what the monitor says of the machine.
func (m *machine) state(ctx context.Context) (string, error) {
	info, err := m.DescribeInstanceInfo(ctx)
	if err != nil {
		return "", err
	}
	if *info.ID != m.name {
		return "", fmt.Errorf("its id is %s, not %s", *info.ID, m.name)
	}
	return *info.State, nil
}

func (m *machine) expectState(ctx context.Context, wanted string) error {
	state, err := m.state(ctx)
	if err == nil && state != wanted {
		err = fmt.Errorf("its state is %s, not %s", state, wanted)
	}
	return err
}

// --- What is done, in this order -------------------------------------------------------------------------------------

func start(ctx context.Context) (*machine, error) {
	for name, size := range map[string]int64{"small": 1 << 20, "large": 3 << 20} {
		if err := os.WriteFile(file(name), []byte("the "+name+" image\n"), 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(file(name), size); err != nil {
			return nil, err
		}
	}
	m, err := newMachine(ctx, "parent", parentConfig())
	if err != nil {
		return nil, err
	}
	m.Handlers.FcInit = m.Handlers.FcInit.Append(
		firecracker.NewSetMetadataHandler(map[string]string{"name": "first", "place": "here"}))
	if err := m.Start(ctx); err != nil {
		return nil, err
	}
	if _, err := m.console.waitFor(`mayfly-init: ready .*cpus=2`); err != nil {
		return nil, err
	}
	// A kernel whose drivers are modules does not heed the SDK's ip= argument.
	return m, m.console.ask("ip addr add "+guestAddress+"/24 dev eth0; ip link set eth0 up; echo ready $((40 + 2))", `ready 42`)
}

func describe(ctx context.Context, m *machine) error {
	if err := m.expectState(ctx, "Running"); err != nil {
		return err
	}
	if err := m.Machine.Start(ctx); !errors.Is(err, firecracker.ErrAlreadyStarted) {
		return fmt.Errorf("a second start: %v", err)
	}
	if version, err := m.GetFirecrackerVersion(ctx); err != nil || !strings.HasPrefix(version, "1.") {
		return fmt.Errorf("its version is %q: %w", version, err)
	}
	if _, err := m.PID(); err != nil {
		return err
	}
	whole, err := firecracker.NewClient(m.Cfg.SocketPath, nil, false).GetExportVMConfig()
	if err != nil {
		return err
	}
	if len(whole.Payload.Drives) != 2 || len(whole.Payload.NetworkInterfaces) != 1 {
		return fmt.Errorf("its configuration has %d drives", len(whole.Payload.Drives))
	}
	return nil
}

// network: the guest asks a server of ours, which sees who asks.
func network(ctx context.Context, m *machine) error {
	listener, err := net.Listen("tcp", hostAddress+":0")
	if err != nil {
		return err
	}
	from := make(chan string, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		from <- request.RemoteAddr
		fmt.Fprintf(answer, "from the host: %d\n", 6*7)
	})}
	go server.Serve(listener)
	defer server.Close()
	if err := m.console.ask("wget -q -O - http://"+listener.Addr().String()+"/", `from the host: 42`); err != nil {
		return err
	}
	if guest, _, _ := net.SplitHostPort(<-from); guest != guestAddress {
		return fmt.Errorf("the server saw %s", guest)
	}
	if err := m.console.ask("cat /sys/class/net/eth0/address", guestMac); err != nil {
		return err
	}
	bucket := firecracker.TokenBucketBuilder{}.WithBucketSize(200 << 20).WithRefillDuration(time.Second).Build()
	return m.UpdateGuestNetworkInterfaceRateLimit(ctx, "1", firecracker.RateLimiterSet{
		InRateLimiter: firecracker.NewRateLimiter(bucket, bucket),
	})
}

// The guest reads the metadata with a token, as version 2 wants it.
const askForMetadata = `t=$(printf 'PUT /latest/api/token HTTP/1.0\r\nX-metadata-token-ttl-seconds: 600\r\n\r\n' | ` +
	`nc 169.254.169.254 80 | tail -n 1); echo "It is $(wget -q -O - --header "X-metadata-token: $t" http://169.254.169.254/name)."`

func metadata(ctx context.Context, m *machine) error {
	if err := m.console.typeLine("ip route add 169.254.169.254 dev eth0"); err != nil {
		return err
	}
	if err := m.console.ask(askForMetadata, `It is first\.`); err != nil {
		return err
	}
	if err := m.UpdateMetadata(ctx, map[string]string{"name": "second"}); err != nil {
		return err
	}
	var kept map[string]string
	if err := m.GetMetadata(ctx, &kept); err != nil {
		return err
	}
	if kept["name"] != "second" || kept["place"] != "here" {
		return fmt.Errorf("the metadata are %v", kept)
	}
	return m.console.ask(askForMetadata, `It is second\.`)
}

func drives(ctx context.Context, m *machine) error {
	if err := m.console.ask("head -n 1 /dev/vdb; cat /sys/block/vdb/size", `the small image\s+2048\s`); err != nil {
		return err
	}
	if err := m.console.ask("echo written by $((40 + 2)) | dd of=/dev/vdb bs=512 seek=1 conv=sync,fsync 2> /dev/null; echo wrote $?",
		`wrote 0`); err != nil {
		return err
	}
	content, err := os.ReadFile(file("small"))
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(content[512:], []byte("written by 42\n")) {
		return errors.New("the image does not have what the guest wrote")
	}
	if err := m.UpdateGuestDrive(ctx, "data", file("large")); err != nil {
		return err
	}
	return m.console.ask("while [ $(cat /sys/block/vdb/size) = 2048 ]; do sleep 1; done; head -n 1 /dev/vdb; cat /sys/block/vdb/size",
		`the large image\s+6144\s`)
}

// What there is no device for is refused with a sentence, and the machine goes on.
func refusals(ctx context.Context, m *machine) error {
	err := m.CreateBalloon(ctx, 10, true, 1)
	if err == nil || !strings.Contains(err.Error(), "400") {
		return fmt.Errorf("a balloon: %v", err)
	}
	if _, err := m.GetBalloonStats(ctx); err == nil {
		return errors.New("there are a balloon's statistics")
	}
	if err := m.CreateSnapshot(ctx, file("memory"), file("state")); err == nil {
		return errors.New("a snapshot of a running machine")
	}
	return m.expectState(ctx, "Running")
}

// snapshot leaves a word in the guest's memory that only a clone can say.
func snapshot(ctx context.Context, m *machine) error {
	if err := m.console.ask("word=remembered; echo noted $((1 + 1))", `noted 2`); err != nil {
		return err
	}
	if err := m.PauseVM(ctx); err != nil {
		return err
	}
	if err := m.expectState(ctx, "Paused"); err != nil {
		return err
	}
	if err := m.CreateSnapshot(ctx, file("memory"), file("state")); err != nil {
		return err
	}
	if err := m.console.typeLine("echo typed while paused: $((4 + 4))"); err != nil {
		return err
	}
	if text, _ := m.console.said(); strings.Contains(text, "typed while paused: 8") {
		return errors.New("a paused guest answered")
	}
	if err := m.ResumeVM(ctx); err != nil {
		return err
	}
	_, err := m.console.waitFor(`typed while paused: 8`)
	return err
}

// shutDown presses Ctrl-Alt-Del; the monitor's end is a good one, and what it said has come through the FIFOs.
func shutDown(ctx context.Context, m *machine) error {
	flush := models.InstanceActionInfoActionTypeFlushMetrics
	if _, err := firecracker.NewClient(m.Cfg.SocketPath, nil, false).CreateSyncAction(ctx,
		&models.InstanceActionInfo{ActionType: &flush}); err != nil {
		return err
	}
	if err := m.Shutdown(ctx); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := m.Wait(waiting); err != nil {
		return fmt.Errorf("the monitor's end: %w", err)
	}
	if _, err := m.PID(); err == nil {
		return errors.New("it has a process still")
	}
	if _, err := os.Stat(m.Cfg.SocketPath); !os.IsNotExist(err) {
		return fmt.Errorf("its socket is left: %v", err)
	}
	if log := m.log.String(); !strings.HasPrefix(log, "Running Firecracker v") || !strings.Contains(log, "["+m.name+":INFO] ") {
		return fmt.Errorf("its log is:\n%s", log)
	}
	return m.checkMetrics()
}

// checkMetrics: each line is one of JSON, with what the guest has sent since the last by the dialect's names.
func (m *machine) checkMetrics() error {
	lines := strings.Split(strings.TrimSpace(m.metrics.String()), "\n")
	sent := uint64(0)
	for _, line := range lines {
		var counted struct {
			Net map[string]uint64 `json:"net"`
		}
		if err := json.Unmarshal([]byte(line), &counted); err != nil {
			return fmt.Errorf("its metrics are:\n%s\n%w", line, err)
		}
		sent += counted.Net["tx_packets_count"]
	}
	if sent == 0 {
		return fmt.Errorf("its metrics count no frame of the guest:\n%s", lines[0])
	}
	return nil
}

// clone: another process goes on with the snapshot, takes a diff of it, and ends as its parent did.
func clone(ctx context.Context) error {
	m, err := newMachine(ctx, "clone", firecracker.Config{},
		firecracker.WithSnapshot(file("memory"), file("state"), func(snapshot *firecracker.SnapshotConfig) {
			snapshot.EnableDiffSnapshots = true
			snapshot.ResumeVM = true
		}))
	if err != nil {
		return err
	}
	if err := m.Start(ctx); err != nil {
		return err
	}
	if err := m.expectState(ctx, "Running"); err != nil {
		return err
	}
	if err := m.console.ask("echo the word: $word", `the word: remembered`); err != nil {
		return err
	}
	if err := network(ctx, m); err != nil {
		return err
	}
	if err := m.SetMetadata(ctx, map[string]string{"name": "the clone"}); err != nil {
		return err
	}
	if err := m.console.ask(askForMetadata, `It is the clone\.`); err != nil {
		return err
	}
	if err := m.PauseVM(ctx); err != nil {
		return err
	}
	if err := m.CreateSnapshot(ctx, file("diff-memory"), file("diff-state"), func(params *ops.CreateSnapshotParams) {
		params.Body.SnapshotType = models.SnapshotCreateParamsSnapshotTypeDiff
	}); err != nil {
		return err
	}
	if err := m.ResumeVM(ctx); err != nil {
		return err
	}
	return shutDown(ctx, m)
}

// stopped: a machine that is told to stop before it has started anything.
func stopped(ctx context.Context) error {
	m, err := newMachine(ctx, "stopped", parentConfig())
	if err != nil {
		return err
	}
	if err := m.Start(ctx); err != nil {
		return err
	}
	if err := m.StopVMM(); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := m.Wait(waiting); err == nil || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the monitor's end: %v", err)
	}
	return nil
}

func live(ctx context.Context) error {
	var parent *machine
	steps := []struct {
		name string
		run  func() error
	}{
		{"start", func() (err error) { parent, err = start(ctx); return }},
		{"describe", func() error { return describe(ctx, parent) }},
		{"network", func() error { return network(ctx, parent) }},
		{"metadata", func() error { return metadata(ctx, parent) }},
		{"drives", func() error { return drives(ctx, parent) }},
		{"refusals", func() error { return refusals(ctx, parent) }},
		{"snapshot", func() error { return snapshot(ctx, parent) }},
		{"shutdown", func() error { return shutDown(ctx, parent) }},
		{"clone", func() error { return clone(ctx) }},
		{"stop", func() error { return stopped(ctx) }},
	}
	for _, step := range steps {
		begin := time.Now()
		if err := step.run(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Printf("%s: %d ms\n", step.name, time.Since(begin).Milliseconds())
	}
	return nil
}

func main() {
	flag.Parse()
	ctx, cancel := context.WithCancel(context.Background())
	err := live(ctx)
	cancel()
	for _, left := range machines {
		if pid, gone := left.PID(); gone == nil {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "go_life:", err)
		os.Exit(1)
	}
}
