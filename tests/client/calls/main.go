// Calls of the Go SDK's client, one by one. Built with each of the SDK's versions that speak the dialect of Firecracker 1.
//
//	calls -monitor FILE -kernel GUEST -work DIRECTORY
//
// The guest is a bare-metal one that listens to its keyboard. Says "call NAME passed|refused" for each call.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	firecracker "github.com/firecracker-microvm/firecracker-go-sdk"
	models "github.com/firecracker-microvm/firecracker-go-sdk/client/models"
	"github.com/sirupsen/logrus"
)

var (
	monitor = flag.String("monitor", "", "the binary that takes Firecracker's place")
	kernel  = flag.String("kernel", "", "the guest")
	work    = flag.String("work", "", "a directory for files")
)

func file(name string) string { return filepath.Join(*work, name) }

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "calls:", err)
		os.Exit(1)
	}
}

func passed(name string, err error) {
	if err != nil {
		must(fmt.Errorf("%s: %w", name, err))
	}
	fmt.Printf("call %s passed\n", name)
}

// What Mayfly does not have, and says so.
func refused(name string, err error) {
	if err == nil || !strings.Contains(err.Error(), "400") {
		must(fmt.Errorf("%s is to be refused with 400: %v", name, err))
	}
	fmt.Printf("call %s refused\n", name)
}

type machine struct {
	*firecracker.Client
	process *exec.Cmd
}

func start(name string) machine {
	socket := file(name + ".socket")
	process := exec.Command(*monitor, "--api-sock", socket, "--id", name)
	process.Stderr = os.Stderr
	must(process.Start())
	for end := time.Now().Add(time.Minute); ; {
		// Not by its file, which is there before it listens.
		if connection, err := net.Dial("unix", socket); err == nil {
			connection.Close()
			break
		}
		if time.Now().After(end) {
			must(fmt.Errorf("%s does not listen", *monitor))
		}
	}
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	return machine{firecracker.NewClient(socket, logrus.NewEntry(quiet), false), process}
}

// Without a name that the SDK's versions spell differently.
func pointer[T any](value T) *T { return &value }

func configure(ctx context.Context, m machine) {
	version, err := m.GetFirecrackerVersion(ctx)
	passed("GetFirecrackerVersion", err)
	if !strings.HasPrefix(*version.Payload.FirecrackerVersion, "1.") {
		must(fmt.Errorf("another dialect: %s", *version.Payload.FirecrackerVersion))
	}
	_, err = m.PutLogger(ctx, &models.Logger{LogPath: pointer(file("log")), Level: pointer("Debug"), ShowLevel: pointer(true)})
	passed("PutLogger", err)
	_, err = m.PutMetrics(ctx, &models.Metrics{MetricsPath: pointer(file("metrics"))})
	passed("PutMetrics", err)
	_, err = m.PutMachineConfiguration(ctx, &models.MachineConfiguration{VcpuCount: pointer(int64(1)), MemSizeMib: pointer(int64(32)),
		Smt: pointer(false)})
	passed("PutMachineConfiguration", err)
	config, err := m.GetMachineConfiguration()
	passed("GetMachineConfiguration", err)
	if *config.Payload.MemSizeMib != 32 {
		must(fmt.Errorf("the machine has %d MiB", *config.Payload.MemSizeMib))
	}
	_, err = m.PutGuestBootSource(ctx, &models.BootSource{KernelImagePath: kernel, BootArgs: "console=ttyS0"})
	passed("PutGuestBootSource", err)
	must(os.WriteFile(file("image"), make([]byte, 1<<20), 0o600))
	for _, drive := range firecracker.NewDrivesBuilder(file("image")).Build() {
		_, err = m.PutGuestDriveByID(ctx, *drive.DriveID, &drive)
		passed("PutGuestDriveByID", err)
	}
	_, err = m.PutMmds(ctx, map[string]any{"name": "first"})
	passed("PutMmds", err)
	_, err = m.PatchMmds(ctx, map[string]any{"more": 1})
	passed("PatchMmds", err)
	_, err = m.GetMmds(ctx)
	passed("GetMmds", err)
	_, err = m.PutBalloon(ctx, &models.Balloon{AmountMib: pointer(int64(1)), DeflateOnOom: pointer(true)})
	refused("PutBalloon", err)
	_, err = m.DescribeBalloonConfig(ctx)
	refused("DescribeBalloonConfig", err)
	_, err = m.PutGuestVsock(ctx, &models.Vsock{GuestCid: pointer(int64(3)), UdsPath: pointer("/run/no")})
	refused("PutGuestVsock", err)
}

func setState(ctx context.Context, m machine, state string) {
	_, err := m.PatchVM(ctx, &models.VM{State: &state})
	passed("PatchVM "+state, err)
}

func main() {
	flag.Parse()
	ctx := context.Background()
	m := start("first")
	configure(ctx, m)
	_, err := m.CreateSyncAction(ctx, &models.InstanceActionInfo{ActionType: pointer("InstanceStart")})
	passed("CreateSyncAction InstanceStart", err)
	info, err := m.GetInstanceInfo(ctx)
	passed("GetInstanceInfo", err)
	if *info.Payload.State != models.InstanceInfoStateRunning {
		must(fmt.Errorf("the machine is %s", *info.Payload.State))
	}
	_, err = m.PatchGuestDriveByID(ctx, "root_drive", file("image"))
	passed("PatchGuestDriveByID", err)
	setState(ctx, m, models.VMStatePaused)
	_, err = m.CreateSnapshot(ctx, &models.SnapshotCreateParams{SnapshotPath: pointer(file("state")), MemFilePath: pointer(file("memory"))})
	passed("CreateSnapshot", err)
	setState(ctx, m, models.VMStateResumed)
	_, err = m.GetExportVMConfig()
	passed("GetExportVMConfig", err)
	must(m.process.Process.Signal(os.Interrupt))
	_ = m.process.Wait()

	clone := start("clone")
	load := &models.SnapshotLoadParams{}
	// Its fields have other types in each version.
	must(json.Unmarshal([]byte(fmt.Sprintf(`{"snapshot_path": %q, "mem_file_path": %q, "resume_vm": true}`, file("state"), file("memory"))), load))
	_, err = clone.LoadSnapshot(ctx, load)
	passed("LoadSnapshot", err)
	for { // the guest listens to its keyboard once it has set that up
		_, err = clone.CreateSyncAction(ctx, &models.InstanceActionInfo{ActionType: pointer("SendCtrlAltDel")})
		if err == nil || !strings.Contains(err.Error(), "keyboard") {
			break
		}
	}
	passed("CreateSyncAction SendCtrlAltDel", err)
	must(clone.process.Wait())
}
