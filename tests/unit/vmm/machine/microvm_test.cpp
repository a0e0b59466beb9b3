#include "vmm/machine/microvm.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/support/no_more_threads.h"
#include "tests/support/run_until.h"
#include "tests/unit/virtio/mmds/fake_guest.h"
#include "tests/unit/vmm/boot/boot_images.h"
#include "tests/unit/vmm/kvm/fake_kvm.h"
#include "virtio/mmds/tcp_connection.h"
#include "virtio/net/net_context.h"
#include "virtio/ring_abi.h"
#include "vmm/base/clock.h"
#include "vmm/base/try.h"
#include "vmm/boot/layout.h"
#include "vmm/kvm/cpu_features.h"
#include "vmm/machine/boot.h"
#include "vmm/machine/restore.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

/// boot(), restore(), save() and Microvm over a KVM that is made up: what is asked in which order, and what is left
/// when any of it fails.
namespace mayfly::testing {
namespace {

constexpr std::uint64_t kKernelBase = 0x100'0000;
constexpr std::uint64_t kKernelEntry = kKernelBase + 0x10;
/// A size that no other mapping of a test's process has.
constexpr std::uint64_t kMemoryMib = 53;
constexpr unsigned kVcpus = 2;
constexpr std::uint32_t kOwnMsr = 0x140;

/// Calls that a machine does without, or asks for what only newer hosts have.
const std::set<std::string, std::less<>> kMayFail{"KVM_CHECK_EXTENSION", "KVM_KVMCLOCK_CTRL", "KVM_SIGNAL_MSI",
                                                  "KVM_GET_TSC_KHZ"};

/// What an error says of a call that failed.
std::string word_for(const std::string& call) {
  if (call == "open") return "/dev/kvm";
  return call == "KVM_CHECK_EXTENSION" ? "KVM lacks KVM_CAP_" : call;
}

class MicrovmTest : public ::testing::Test {
 protected:
  MicrovmTest() {
    auto loop = EventLoop::create();
    if (!loop) std::abort();
    loop_ = std::move(*loop);
    make_file(drive_.path_on_host, std::string(1 << 20, 'd'));
  }
  ~MicrovmTest() override { close_loop(); }

  /// A machine goes after its loop, which has its operations.
  void close_loop() {
    loop_->close();
    machine_.reset();
    board_.reset();
  }
  void renew_loop() {
    close_loop();
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
  }

  MachineContext context() {
    return {.loop = *loop_,
            .log = log_,
            .metrics = metrics_,
            .metadata = metadata_,
            .on_end = [this](MachineEnd end) { end_ = std::move(end); },
            .on_booted = [] {}};
  }
  Result<DevicePlans> devices() {
    DevicePlans plans;
    auto image = TRY(DiskImage::open(drive_));
    plans.drives.push_back({.config = drive_, .image = std::move(image)});
    if (!has_metadata_) return plans;
    plans.network_interfaces.push_back({.config = {.iface_id = "eth0"}, .tap = Tap::none()});
    plans.mmds = MmdsConfig{.network_interfaces = {"eth0"}};
    return plans;
  }
  Result<std::unique_ptr<Board>> boot(FakeKvm& kvm) {
    kvm.hold_creation();  // so that calls come in one order
    auto prepared = TRY(PreparedVm::begin({}, {}, kvm));
    if (after_prepare_) after_prepare_();
    Status learnt = prepared.learn_cpuid();
    kvm.release();
    TRY(std::move(learnt));
    auto plans = TRY(devices());
    CpuConfig cpu;
    cpu.msrs.push_back({.address = kOwnMsr, .bits = {.mask = ~0ULL, .value = 5}});
    return mayfly::boot({.prepared = std::move(prepared),
                         .machine = {.vcpu_count = kVcpus, .mem_size_mib = kMemoryMib, .track_dirty_pages = true},
                         .cpu = std::move(cpu),
                         .kernel_fd = kernel_.fd(),
                         .kernel_path = "/images/kernel",
                         .initrd_fd = std::nullopt,
                         .initrd_path = {},
                         .command_line = "console=ttyS0",
                         .devices = std::move(plans),
                         .console = {},
                         .boot_timer = true},
                        context());
  }
  Result<std::unique_ptr<Board>> restore(FakeKvm& kvm, const Snapshot& snapshot) {
    kvm.hold_creation();
    if (memory_comes_) kvm.make_vcpus_after_memory();
    auto prepared = TRY(PreparedVm::begin({}, known_cpuid_, kvm));
    if (after_prepare_) after_prepare_();
    Status learnt = same_host_kind_ ? Status{} : prepared.learn_cpuid();
    kvm.release();
    TRY(std::move(learnt));
    const GuestMemory::Options options{.size_mib = kMemoryMib};
    auto made = revertible_ ? GuestMemory::map(options, memory_file()) : GuestMemory::create(options);
    if (!made) return propagate(made);
    auto plans = TRY(devices());
    return mayfly::restore({.prepared = std::move(prepared),
                            .snapshot = std::make_shared<const Snapshot>(snapshot),
                            .memory = {.memory = std::move(*made)},
                            .devices = std::move(plans),
                            .console = {},
                            .clock_realtime = false,
                            .revertible = revertible_},
                           context());
  }
  /// Of zeros, and of a word of them.
  [[nodiscard]] OwnedFd memory_file() const {
    OwnedFd file{::open(scratch_.file("memory").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    EXPECT_EQ(::ftruncate(file.get(), kMemoryMib * kMiB), 0);
    const std::uint64_t word = kSavedWord;
    EXPECT_EQ(::pwrite(file.get(), &word, sizeof word, kWordAt.value), 8);
    return file;
  }
  Microvm* booted() {
    auto board = boot(kvm_);
    if (!board) {
      ADD_FAILURE() << board.error().message;
      std::abort();
    }
    machine_ = std::make_unique<Microvm>(std::move(*board));
    return machine_.get();
  }
  void pause(Microvm& machine) {
    bool paused = false;
    machine.pause([&paused] { paused = true; });
    run_until(*loop_, [&paused] { return paused; });
  }
  void drain(Microvm& machine) {
    bool drained = false;
    machine.drain([&drained] { drained = true; });
    run_until(*loop_, [&drained] { return drained; });
  }
  Snapshot saved(Microvm& machine) {
    auto snapshot = machine.save();
    EXPECT_TRUE(snapshot) << snapshot.error().message;
    if (!snapshot) return {};
    const auto synced = machine.sync_drives(*snapshot, DriveSync::All);
    EXPECT_TRUE(synced) << synced.error().message;
    snapshot->machine = {.vcpu_count = kVcpus, .mem_size_mib = kMemoryMib, .track_dirty_pages = true};
    return std::move(*snapshot);
  }
  void await_entries(std::size_t count) const { await_entries_of(kvm_, count); }
  static void await_entries_of(const FakeKvm& kvm, std::size_t count) {
    while (kvm.entries() < count) ::sched_yield();
  }

  // --- What a failure must not leave behind
  struct Footprint {
    std::size_t descriptors, threads, memories;
  };
  static Footprint footprint() {
    const std::filesystem::directory_iterator tasks{"/proc/self/task"};
    Footprint now{.descriptors = open_descriptors(),
                  .threads = static_cast<std::size_t>(std::distance(begin(tasks), end(tasks))),
                  .memories = 0};
    std::istringstream maps{content_of("/proc/self/maps")};
    for (std::string line; std::getline(maps, line);) {
      std::uint64_t first = 0;
      std::uint64_t last = 0;
      char dash = 0;
      std::istringstream{line} >> std::hex >> first >> dash >> last;
      if (last - first == kMemoryMib * kMiB || line.find("fake-kvm") != std::string::npos) ++now.memories;
    }
    return now;
  }
  /// A joined thread may be seen for a moment longer.
  static void expect_nothing_left(const Footprint& before) {
    while (footprint().threads > before.threads) ::sched_yield();
    const Footprint after = footprint();
    EXPECT_EQ(after.descriptors, before.descriptors);
    EXPECT_EQ(after.memories, before.memories);
  }
  void turn_loop() {
    loop_->post([] {});
    ASSERT_TRUE(loop_->run_once());
  }
  /// `make` makes a machine with a KVM; each of its calls fails once.
  template <typename Make>
  void expect_each_call_to_fail(Make make) {
    std::vector<std::string> calls;
    {
      FakeKvm kvm;
      auto whole = make(kvm);
      ASSERT_TRUE(whole) << whole.error().message;
      calls = kvm.calls();
      board_ = std::move(*whole);
      renew_loop();
    }
    ASSERT_GT(calls.size(), 20U);
    const Footprint before = footprint();
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (calls[i] == "KVM_SET_GSI_ROUTING") continue;  // that KVM refuses a valid table is a fault of the program
      SCOPED_TRACE(calls[i] + ", call " + std::to_string(i));
      {
        FakeKvm kvm;
        kvm.fail_once(i, EIO);
        auto made = make(kvm);
        EXPECT_EQ(kvm.failed(), calls[i]);
        if (made && kMayFail.contains(calls[i])) {
          board_ = std::move(*made);
          renew_loop();
          continue;
        }
        ASSERT_FALSE(made);
        EXPECT_NE(made.error().message.find(word_for(calls[i])), std::string::npos) << made.error().message;
      }
      turn_loop();
      expect_nothing_left(before);
    }
  }
  /// The same of descriptors: the process may have one more each time.
  template <typename Make>
  void expect_descriptors_to_run_out(Make make) {
    const Footprint before = footprint();
    rlimit own{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &own), 0);
    bool succeeded = false;
    std::size_t failures = 0;
    for (std::size_t more = 0; !succeeded && more < 64; ++more) {
      SCOPED_TRACE(more);
      {
        FakeKvm kvm;
        const rlimit few{.rlim_cur = before.descriptors + more, .rlim_max = own.rlim_max};
        ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
        auto made = make(kvm);
        ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &own), 0);
        succeeded = made.has_value();
        if (succeeded) {
          board_ = std::move(*made);
          renew_loop();
        } else {
          ++failures;
          EXPECT_NE(made.error().message.find("Too many open files"), std::string::npos) << made.error().message;
        }
      }
      turn_loop();
      expect_nothing_left(before);
    }
    EXPECT_TRUE(succeeded);
    EXPECT_GE(failures, 8U);
  }

  /// The same of threads: the host gives none, or that of the first vCPU alone.
  template <typename Make>
  void expect_threads_to_run_out(Make make) {
    const Footprint before = footprint();
    for (const bool after_first : {false, true}) {
      SCOPED_TRACE(after_first);
      {
        FakeKvm kvm;
        std::optional<NoMoreThreads> none;
        after_prepare_ = [&none] { none.emplace(); };
        if (!after_first) none.emplace();
        auto made = make(kvm);
        after_prepare_ = nullptr;
        ASSERT_FALSE(made);
        EXPECT_NE(made.error().message.find("cannot start a vCPU's thread"), std::string::npos) << made.error().message;
      }
      turn_loop();
      expect_nothing_left(before);
    }
  }

  static constexpr std::uint64_t kSavedWord = 0x1122'3344'5566'7788;
  static constexpr GuestAddress kWordAt{33 * kMiB};

  bool revertible_ = false;  // what restore() makes
  bool same_host_kind_ = false;
  bool has_metadata_ = false;                      // on an interface
  bool memory_comes_ = true;                       // and is not refused before that
  std::span<const kvm_cpuid_entry2> known_cpuid_;  // before the snapshot is read
  std::function<void()> after_prepare_;
  ScratchDirectory scratch_;
  DriveConfig drive_{.drive_id = "data", .path_on_host = scratch_.file("image")};
  MemoryFile kernel_{ElfBuilder{}.load(kKernelBase, pattern(0x2345), 0x6000).entry(kKernelEntry).build()};
  std::unique_ptr<EventLoop> loop_;
  Log log_{"test"};
  Metrics metrics_;
  MetadataStore metadata_;
  std::optional<MachineEnd> end_;
  FakeKvm kvm_;
  std::unique_ptr<Microvm> machine_;
  std::unique_ptr<Board> board_;
};

std::size_t first_of(const std::vector<std::string>& calls, std::string_view name) {
  const auto found = std::ranges::find(calls, name);
  EXPECT_NE(found, calls.end()) << name << " was not called";
  return static_cast<std::size_t>(found - calls.begin());
}

std::size_t last_of(const std::vector<std::string>& calls, std::string_view name) {
  const auto found = std::ranges::find(calls.rbegin(), calls.rend(), name);
  EXPECT_NE(found, calls.rend()) << name << " was not called";
  return calls.size() - 1 - static_cast<std::size_t>(found - calls.rbegin());
}

// --- Boot ------------------------------------------------------------------------------------------------------------

TEST_F(MicrovmTest, AVmIsMadeWhileItsCallerGoesOn) {
  kvm_.hold_creation();
  auto prepared = PreparedVm::begin({}, {}, kvm_);
  EXPECT_TRUE(prepared && prepared->learn_cpuid());
  EXPECT_EQ(std::ranges::count(kvm_.calls(), "KVM_CREATE_VM"), 0);
  kvm_.release();
  ASSERT_TRUE(prepared);
  const auto parts = std::move(*prepared).take();
  ASSERT_TRUE(parts);
  EXPECT_EQ(kvm_.vcpu_count(), 1U);
}

TEST_F(MicrovmTest, ABootMapsMemoryBeforeAnythingOnKvmsBus) {
  booted();
  const auto calls = kvm_.calls();
  EXPECT_LT(last_of(calls, "KVM_SET_USER_MEMORY_REGION"), first_of(calls, "KVM_IOEVENTFD"));
  EXPECT_LT(last_of(calls, "KVM_SET_USER_MEMORY_REGION"), first_of(calls, "KVM_IRQFD"));
}

TEST_F(MicrovmTest, ABootShowsVcpusTheirCpuidBeforeItsRegisters) {
  booted();
  const auto calls = kvm_.calls();
  EXPECT_LT(first_of(calls, "KVM_SET_CPUID2"), first_of(calls, "KVM_SET_MSRS"));
  ASSERT_EQ(kvm_.vcpu_count(), kVcpus);
  for (unsigned i = 0; i < kVcpus; ++i) {
    const auto registers = kvm_.registers(i);
    ASSERT_FALSE(registers.cpuid.empty());
    EXPECT_EQ(registers.msrs.at(kOwnMsr), 5U);
  }
  EXPECT_EQ(kvm_.registers(0).regs.rip, kKernelEntry);
  EXPECT_EQ(kvm_.registers(1).regs.rip, 0U) << "only the boot processor enters the kernel";
}

TEST_F(MicrovmTest, ABootEntersNoGuestBeforeItIsResumed) {
  Microvm* const machine = booted();
  turn_loop();
  EXPECT_EQ(kvm_.entries(), 0U);
  machine->resume();
  await_entries(kVcpus);
}

TEST_F(MicrovmTest, ABootWhoseAnyCallFailsLeavesNothing) {
  expect_each_call_to_fail([this](FakeKvm& kvm) { return boot(kvm); });
}

TEST_F(MicrovmTest, ABootWithoutDescriptorsLeavesNothing) {
  expect_descriptors_to_run_out([this](FakeKvm& kvm) { return boot(kvm); });
}

TEST_F(MicrovmTest, ABootWithoutThreadsLeavesNothing) {
  expect_threads_to_run_out([this](FakeKvm& kvm) { return boot(kvm); });
}

TEST_F(MicrovmTest, ABootNamesACapabilityThatTheHostLacks) {
  FakeKvm kvm;
  kvm.lack(KVM_CAP_IRQFD);
  const auto made = boot(kvm);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().kind, ErrorKind::Unsupported);
  EXPECT_NE(made.error().message.find("KVM_CAP_IRQFD"), std::string::npos) << made.error().message;
}

// --- Run and pause ---------------------------------------------------------------------------------------------------

TEST_F(MicrovmTest, APauseBringsAllVcpusOutAndTellsTheGuest) {
  Microvm* const machine = booted();
  machine->resume();
  await_entries(kVcpus);
  kvm_.forget();
  pause(*machine);
  EXPECT_EQ(kvm_.calls(), (std::vector<std::string>(kVcpus, "KVM_KVMCLOCK_CTRL")));
  const std::size_t entered = kvm_.entries();
  turn_loop();
  EXPECT_EQ(kvm_.entries(), entered);
  machine->resume();
  await_entries(entered + kVcpus);
}

TEST_F(MicrovmTest, APauseAndAResumeMayFollowEachOtherAtAnyMoment) {
  Microvm* const machine = booted();
  for (int i = 0; i < 200; ++i) {
    machine->resume();
    if (i % 3 == 0) await_entries(kVcpus);
    bool paused = false;
    machine->pause([&paused] { paused = true; });
    if (i % 2 == 0) continue;  // resumed before all have parked
    run_until(*loop_, [&paused] { return paused; });
  }
}

TEST_F(MicrovmTest, APauseNeedsNoRoomInTheUsersQueueOfSignals) {
  Microvm* const machine = booted();
  machine->resume();
  await_entries(kVcpus);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_SIGPENDING, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &none), 0);
  ::alarm(20);  // ends a process that kicks for ever
  pause(*machine);
  ::alarm(0);
  EXPECT_EQ(::setrlimit(RLIMIT_SIGPENDING, &before), 0);
}

TEST_F(MicrovmTest, AGuestThatPullsTheResetLineEndsItsMachine) {
  Microvm* const machine = booted();
  kvm_.leave([](kvm_run& run) {
    run.exit_reason = KVM_EXIT_IO;
    run.io.direction = KVM_EXIT_IO_OUT;
    run.io.port = layout::kKeyboardCommandPort;
    run.io.size = 1;
    run.io.count = 1;
    run.io.data_offset = sizeof(kvm_run);
    reinterpret_cast<std::uint8_t*>(&run)[sizeof(kvm_run)] = 0xFE;
    return 0;
  });
  machine->resume();
  run_until(*loop_, [this] { return end_.has_value(); });
  EXPECT_EQ(end_->reason, EndReason::Reset);
  pause(*machine);
}

struct FailureCase {
  const char* name;
  int error_number;
  std::uint32_t exit_reason;
  EndReason reason;
};

class VcpuFailureTest : public MicrovmTest, public ::testing::WithParamInterface<FailureCase> {};

TEST_P(VcpuFailureTest, EndsTheMachineAndCanBePausedAfterwards) {
  Microvm* const machine = booted();
  kvm_.leave([failure = GetParam()](kvm_run& run) {
    run.exit_reason = failure.exit_reason;
    return failure.error_number;
  });
  machine->resume();
  run_until(*loop_, [this] { return end_.has_value(); });
  EXPECT_EQ(end_->reason, GetParam().reason);
  EXPECT_NE(end_->message.find("vCPU 0"), std::string::npos) << end_->message;
  pause(*machine);
}

INSTANTIATE_TEST_SUITE_P(Each, VcpuFailureTest,
                         ::testing::Values(FailureCase{"KvmRunFails", EFAULT, 0, EndReason::VcpuFailure},
                                           FailureCase{"UnknownExit", 0, KVM_EXIT_HYPERCALL, EndReason::VcpuFailure},
                                           FailureCase{"Shutdown", 0, KVM_EXIT_SHUTDOWN, EndReason::TripleFault},
                                           FailureCase{"InternalError", 0, KVM_EXIT_INTERNAL_ERROR,
                                                       EndReason::InternalError},
                                           FailureCase{"FailedEntry", 0, KVM_EXIT_FAIL_ENTRY, EndReason::FailedEntry}),
                         [](const auto& test) { return test.param.name; });

// --- Save ------------------------------------------------------------------------------------------------------------

TEST_F(MicrovmTest, ASaveWhoseAnyCallFailsLeavesAMachineThatCanBeSaved) {
  Microvm* const machine = booted();
  machine->resume();
  await_entries(kVcpus);
  pause(*machine);
  drain(*machine);
  kvm_.forget();
  const Snapshot whole = saved(*machine);
  const auto calls = kvm_.calls();
  ASSERT_GT(calls.size(), 20U);
  const Footprint before = footprint();
  for (std::size_t i = 0; i < calls.size(); ++i) {
    SCOPED_TRACE(calls[i] + ", call " + std::to_string(i));
    kvm_.fail_once(i, EIO);
    const auto failed = machine->save();
    EXPECT_EQ(kvm_.failed(), calls[i]);
    if (!kMayFail.contains(calls[i])) {
      ASSERT_FALSE(failed);
      EXPECT_NE(failed.error().message.find(calls[i]), std::string::npos) << failed.error().message;
    }
    expect_nothing_left(before);
  }
  const Snapshot again = saved(*machine);
  EXPECT_EQ(again.vcpus.size(), whole.vcpus.size());
  EXPECT_EQ(std::memcmp(&again.vcpus[0].regs, &whole.vcpus[0].regs, sizeof(kvm_regs)), 0);
  machine->undrain();
  const std::size_t entered = kvm_.entries();
  machine->resume();
  await_entries(entered + kVcpus);
}

TEST_F(MicrovmTest, ChangesThatCouldNotBeToldAreToldByTheNextCall) {
  Microvm* const machine = booted();
  pause(*machine);
  drain(*machine);
  ASSERT_TRUE(machine->changes());
  machine->end_snapshot(SnapshotEnd::Whole);
  const GuestAddress written{40 * kMiB};
  ASSERT_TRUE(machine->memory().store(written, std::uint32_t{1}));  // a device's: the memory keeps the log of those
  kvm_.fail_once(0, EIO);
  ASSERT_FALSE(machine->changes());
  kvm_.set_dirty({1ULL << 7});
  const auto changes = machine->changes();
  ASSERT_TRUE(changes && *changes);
  const auto holds = [&](std::uint64_t page) {
    return std::ranges::any_of(
        **changes, [page](const PageRange& range) { return page * 4096 >= range.offset && page * 4096 < range.end(); });
  };
  EXPECT_TRUE(holds(written.value / 4096)) << "lost with the log that failed";
  EXPECT_TRUE(holds(7));
  EXPECT_FALSE(holds(8));
}

// --- Restore ---------------------------------------------------------------------------------------------------------

class RestoreTest : public MicrovmTest {
 protected:
  /// A machine whose vCPUs have registers that no machine begins with.
  Snapshot snapshot() {
    Microvm* const machine = booted();
    for (unsigned i = 0; i < kVcpus; ++i) {
      FakeKvm::VcpuRegisters registers = kvm_.registers(i);
      registers.regs.rax = 0x1234 + i;
      registers.sregs.cr3 = 0x5000 + i;
      registers.msrs[0x10] = 1'000'000;
      registers.msrs[0x6E0] = 7'000'000;
      registers.msrs[0x277] = 0x0007'0406'0007'0406;
      registers.xsave[100] = std::byte{0x77};
      registers.lapic.regs[0x20] = 3;
      registers.debug_regs.db[0] = 0xDB;
      registers.xcrs.nr_xcrs = 1;
      registers.mp_state.mp_state = i == 0 ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_HALTED;
      registers.events.nmi.masked = 1;
      kvm_.set_registers(i, std::move(registers));
    }
    kvm_.set_clock_ns(5'000'000'000);
    drain(*machine);
    return saved(*machine);
  }
  /// In place of the machine that it was taken of.
  void restore_from(const Snapshot& from) {
    renew_loop();
    auto board = restore(other_, from);
    ASSERT_TRUE(board) << board.error().message;
    board_ = std::move(*board);
  }

  FakeKvm other_;
};

TEST_F(RestoreTest, GivesVcpusWhatTheyHad) {
  const Snapshot from = snapshot();
  restore_from(from);
  ASSERT_EQ(other_.vcpu_count(), kVcpus);
  for (unsigned i = 0; i < kVcpus; ++i) {
    SCOPED_TRACE(i);
    const auto was = kvm_.registers(i);
    const auto is = other_.registers(i);
    EXPECT_EQ(std::memcmp(&is.regs, &was.regs, sizeof is.regs), 0);
    EXPECT_EQ(std::memcmp(&is.sregs, &was.sregs, sizeof is.sregs), 0);
    EXPECT_EQ(is.xsave, was.xsave);
    EXPECT_EQ(std::memcmp(&is.lapic, &was.lapic, sizeof is.lapic), 0);
    EXPECT_EQ(std::memcmp(&is.debug_regs, &was.debug_regs, sizeof is.debug_regs), 0);
    EXPECT_EQ(std::memcmp(&is.xcrs, &was.xcrs, sizeof is.xcrs), 0);
    EXPECT_EQ(is.mp_state.mp_state, was.mp_state.mp_state);
    EXPECT_EQ(is.events.nmi.masked, 1);
    EXPECT_EQ(is.cpuid.size(), was.cpuid.size());
    for (const std::uint32_t msr : {0x10U, 0x277U, 0x6E0U, kOwnMsr})
      EXPECT_EQ(is.msrs.at(msr), was.msrs.at(msr)) << msr;
  }
  EXPECT_EQ(other_.clock_ns(), 5'000'000'000U);
}

TEST_F(RestoreTest, AsksInTheOrderThatKvmNeeds) {
  const Snapshot from = snapshot();
  restore_from(from);
  const auto calls = other_.calls();
  EXPECT_LT(last_of(calls, "KVM_SET_USER_MEMORY_REGION"), first_of(calls, "KVM_IOEVENTFD"));
  EXPECT_LT(first_of(calls, "KVM_SET_CPUID2"), first_of(calls, "KVM_SET_XSAVE"));
  EXPECT_LT(first_of(calls, "KVM_SET_SREGS"), first_of(calls, "KVM_SET_LAPIC"));
  EXPECT_LT(first_of(calls, "KVM_SET_LAPIC"), first_of(calls, "KVM_SET_MSRS"));
  EXPECT_LT(last_of(calls, "KVM_SET_MSRS"), first_of(calls, "KVM_SET_CLOCK"));
  EXPECT_EQ(std::ranges::count(calls, "KVM_SET_MSRS"), kVcpus) << "one call a vCPU";
  EXPECT_EQ(std::ranges::count(calls, "KVM_GET_SUPPORTED_CPUID"), 1) << "once, while the VM is made";
}

TEST_F(RestoreTest, DoesNotAskKvmForFeaturesOnAHostOfTheSameKind) {
  Snapshot from = snapshot();
  from.host = this_host_cpu();
  for (VcpuState& vcpu : from.vcpus) vcpu.cpuid = cpuid_of_processor();
  same_host_kind_ = true;
  restore_from(from);
  EXPECT_EQ(std::ranges::count(other_.calls(), "KVM_GET_SUPPORTED_CPUID"), 0);
}

TEST_F(RestoreTest, AsksKvmOnAHostOfTheSameKindWhoseProcessorLacksFeatures) {
  Snapshot from = snapshot();
  from.host = this_host_cpu();
  constexpr std::uint32_t kAvx512er = 1U << 27;  // of a few processors that nobody makes any more
  kvm_cpuid_entry2 leaf{};
  leaf.function = 7;
  leaf.ebx = kAvx512er;
  for (VcpuState& vcpu : from.vcpus) vcpu.cpuid = {leaf};
  same_host_kind_ = true;
  memory_comes_ = false;
  renew_loop();
  const auto made = restore(other_, from);
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message.find("the guest was shown avx512er, and"), std::string::npos) << made.error().message;
  EXPECT_EQ(std::ranges::count(other_.calls(), "KVM_GET_SUPPORTED_CPUID"), 1);
}

TEST_F(RestoreTest, MapsMemoryWhileTheVcpuIsMade) {
  restore_from(snapshot());
  const auto calls = other_.calls();
  EXPECT_LT(first_of(calls, "KVM_SET_USER_MEMORY_REGION"), first_of(calls, "KVM_CREATE_VCPU"));
}

TEST_F(RestoreTest, OfAKnownMachineShowsEachVcpuItsCpuidOnce) {
  const Snapshot from = snapshot();
  known_cpuid_ = from.vcpus.front().cpuid;
  restore_from(from);
  EXPECT_EQ(std::ranges::count(other_.calls(), "KVM_SET_CPUID2"), kVcpus);
  for (std::size_t i = 0; i < kVcpus; ++i)
    EXPECT_EQ(other_.registers(i).cpuid.size(), from.vcpus[i].cpuid.size()) << "vCPU " << i;
}

TEST_F(RestoreTest, WhoseAnyCallFailsLeavesNothing) {
  const Snapshot from = snapshot();
  renew_loop();
  expect_each_call_to_fail([&](FakeKvm& kvm) { return restore(kvm, from); });
}

TEST_F(RestoreTest, WithoutDescriptorsLeavesNothing) {
  const Snapshot from = snapshot();
  memory_comes_ = false;
  renew_loop();
  expect_descriptors_to_run_out([&](FakeKvm& kvm) { return restore(kvm, from); });
}

TEST_F(RestoreTest, WithoutThreadsLeavesNothing) {
  const Snapshot from = snapshot();
  renew_loop();
  expect_threads_to_run_out([&](FakeKvm& kvm) { return restore(kvm, from); });
}

TEST_F(RestoreTest, RefusesAnXsaveAreaOfAnotherHost) {
  Snapshot from = snapshot();
  from.vcpus[1].xsave.resize(8192);
  renew_loop();
  const auto board = restore(other_, from);
  ASSERT_FALSE(board);
  EXPECT_NE(board.error().message.find("vCPU 1: its XSAVE area has 8192 bytes"), std::string::npos)
      << board.error().message;
}

/// A guest that was saved with a connection to the metadata service begun: its first segment waits in the ring.
class RestoredWithASynTest : public RestoreTest {
 protected:
  RestoredWithASynTest() { has_metadata_ = true; }
  ~RestoredWithASynTest() override { close_loop(); }  // its vCPUs call other_

  void restore_with_a_syn() {
    Snapshot from = snapshot();
    MmioTransportState& transport = from.network_interfaces.at(0).transport;
    transport.status =
        VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
    transport.driver_features = 1ULL << VIRTIO_F_VERSION_1;
    transport.queues.at(kNetReceiveQueue) = queue_at(kReceive);
    transport.queues.at(kNetTransmitQueue) = queue_at(kTransmit);
    restore_from(from);
    machine_ = std::make_unique<Microvm>(std::move(board_));
    const GuestMemory& memory = machine_->memory();
    for (std::uint16_t i = 0; i < kEntries; ++i) offer(kReceive, i, kBufferBytes, ring_abi::kWrite);
    const Frame syn = frame_of({.sequence = 1, .flags = kSyn});
    ASSERT_TRUE(memory.write({kTransmit.value + kBuffers + sizeof(NetHeader)}, std::as_bytes(std::span{syn})));
    offer(kTransmit, 0, static_cast<std::uint32_t>(sizeof(NetHeader) + syn.size()), 0);
  }
  /// Frames that the guest has been given.
  std::uint16_t received() { return machine_->memory().load<std::uint16_t>({kReceive.value + kUsed + 2}).value(); }
  /// Once.
  void let_pass(std::uint64_t ns) {
    bool passed = false;
    timer_ = LoopTimer::create(*loop_, [&passed] { passed = true; }).value();
    timer_->listen();
    timer_->arm(monotonic_ns() + ns);
    run_until(*loop_, [&passed] { return passed; });
  }

 private:
  static constexpr std::uint16_t kEntries = 8;
  static constexpr std::uint32_t kBufferBytes = 2048;
  static constexpr GuestAddress kReceive{20 * kMiB};
  static constexpr GuestAddress kTransmit{21 * kMiB};
  static constexpr std::uint64_t kAvailable = 0x1000, kUsed = 0x2000, kBuffers = 0x3000;  // behind the descriptors

  static QueueState queue_at(GuestAddress at) {
    return {.size = kEntries,
            .ready = true,
            .descriptors = at,
            .available = {at.value + kAvailable},
            .used = {at.value + kUsed}};
  }
  void offer(GuestAddress queue, std::uint16_t index, std::uint32_t length, std::uint16_t flags) {
    const GuestMemory& memory = machine_->memory();
    const ring_abi::Descriptor descriptor{.address = queue.value + kBuffers + std::uint64_t{index} * kBufferBytes,
                                          .length = length,
                                          .flags = flags,
                                          .next = 0};
    ASSERT_TRUE(memory.store({queue.value + index * sizeof descriptor}, descriptor));
    ASSERT_TRUE(memory.store({queue.value + kAvailable + 4 + 2ULL * index}, index));
    ASSERT_TRUE(memory.store({queue.value + kAvailable + 2}, static_cast<std::uint16_t>(index + 1)));
  }
  std::unique_ptr<LoopTimer> timer_;
};

TEST_F(RestoredWithASynTest, UntilItIsResumedItsTimeStandsStill) {
  restore_with_a_syn();
  run_until(*loop_, [this] { return received() == 1; });
  let_pass(TcpConnection::kTimeoutNs * 3 / 2);
  EXPECT_EQ(received(), 1U) << "a guest that stands still is sent nothing again";
  machine_->resume();
  run_until(*loop_, [this] { return received() == 2; });
}

// --- Back to the snapshot --------------------------------------------------------------------------------------------

class RevertedMicrovmTest : public RestoreTest {
 protected:
  RevertedMicrovmTest() {
    drive_.is_read_only = true;
    revertible_ = true;
  }
  ~RevertedMicrovmTest() override { close_loop(); }  // its vCPUs call other_
  Microvm& restored() {
    from_ = snapshot();
    restore_from(from_);
    machine_ = std::make_unique<Microvm>(std::move(board_));
    pause(*machine_);
    return *machine_;
  }
  /// What a guest changes, and what its kernel would.
  void use(Microvm& machine) {
    for (unsigned i = 0; i < kVcpus; ++i) {
      FakeKvm::VcpuRegisters registers = other_.registers(i);
      registers.regs.rax = 0xFFFF;
      registers.sregs.cr3 = 0xFFFF'0000;
      registers.msrs[0x277] = 0;
      registers.msrs[0x200] = 0xE000'0000;  // which the snapshot leaves out
      registers.xsave[100] = std::byte{0x11};
      registers.lapic.regs[0x20] = 9;
      registers.debug_regs.db[0] = 0;
      registers.mp_state.mp_state = KVM_MP_STATE_HALTED;
      registers.events.nmi.masked = 0;
      other_.set_registers(i, std::move(registers));
    }
    ASSERT_TRUE(machine.memory().store(kWordAt, std::uint64_t{0}));
    ASSERT_TRUE(machine.memory().store(GuestAddress{7 * kMiB}, std::uint64_t{5}));
  }
  void expect_as_saved(Microvm& machine) {
    for (unsigned i = 0; i < kVcpus; ++i) {
      SCOPED_TRACE(i);
      const auto was = kvm_.registers(i);
      const auto is = other_.registers(i);
      EXPECT_EQ(std::memcmp(&is.regs, &was.regs, sizeof is.regs), 0);
      EXPECT_EQ(std::memcmp(&is.sregs, &was.sregs, sizeof is.sregs), 0);
      EXPECT_EQ(is.xsave, was.xsave);
      EXPECT_EQ(std::memcmp(&is.lapic, &was.lapic, sizeof is.lapic), 0);
      EXPECT_EQ(std::memcmp(&is.debug_regs, &was.debug_regs, sizeof is.debug_regs), 0);
      EXPECT_EQ(is.mp_state.mp_state, was.mp_state.mp_state);
      EXPECT_EQ(is.events.nmi.masked, 1);
      for (const std::uint32_t msr : {0x10U, 0x277U, 0x6E0U, kOwnMsr})
        EXPECT_EQ(is.msrs.at(msr), was.msrs.at(msr)) << msr;
      EXPECT_EQ(is.msrs.at(0x200), 0U) << "as a new vCPU has it";
    }
    EXPECT_EQ(other_.clock_ns(), 5'000'000'000U);
    EXPECT_EQ(machine.memory().load<std::uint64_t>(kWordAt), kSavedWord);
    EXPECT_EQ(machine.memory().load<std::uint64_t>(GuestAddress{7 * kMiB}), 0U);
  }
  static std::array<std::uint64_t, 2> generation_id(Microvm& machine) {
    return machine.memory().load<std::array<std::uint64_t, 2>>(layout::kGenerationIdBeforeVmClock).value();
  }

  Snapshot from_;
};

TEST_F(RevertedMicrovmTest, HasEverythingAsItWasButTheGenerationId) {
  Microvm& machine = restored();
  const auto first_id = generation_id(machine);
  for (int i = 0; i < 3; ++i) {
    use(machine);
    drain(machine);
    const auto id = generation_id(machine);
    const RevertOutcome outcome = machine.revert(false);
    ASSERT_TRUE(outcome.status) << outcome.status.error().message;
    EXPECT_GE(outcome.dropped, 3 * kGuestPageSize);
    EXPECT_LT(outcome.dropped, 16 * kGuestPageSize) << "what was not written stays";
    expect_as_saved(machine);
    EXPECT_NE(generation_id(machine), id);
  }
  EXPECT_NE(generation_id(machine), first_id);
  const auto changes = machine.changes();
  ASSERT_TRUE(changes && *changes);
  EXPECT_EQ(bytes_in(**changes), kGuestPageSize) << "that of the identity";
  machine.resume();
  await_entries_of(other_, kVcpus);
}

TEST_F(RevertedMicrovmTest, CancelsWhatIsDueBeforeTheRegistersThatWouldBringIt) {
  Microvm& machine = restored();
  drain(machine);
  other_.forget();
  ASSERT_TRUE(machine.revert(false).status);
  const auto calls = other_.calls();
  EXPECT_LT(last_of(calls, "KVM_GET_DIRTY_LOG"), first_of(calls, "KVM_SET_REGS"));
  EXPECT_LT(first_of(calls, "KVM_GET_MP_STATE"), first_of(calls, "KVM_SET_MP_STATE")) << "pending INIT signals";
  EXPECT_LT(first_of(calls, "KVM_SET_MSRS"), first_of(calls, "KVM_SET_LAPIC")) << "the timer's deadline";
  EXPECT_LT(last_of(calls, "KVM_SET_MSRS"), first_of(calls, "KVM_SET_CLOCK"));
  for (const char* const once : {"KVM_SET_CPUID2", "KVM_IRQFD", "KVM_IOEVENTFD", "KVM_CREATE_VCPU",
                                 "KVM_SET_USER_MEMORY_REGION", "KVM_GET_MSR_INDEX_LIST"})
    EXPECT_EQ(std::ranges::count(calls, once), 0) << once;
}

TEST_F(RevertedMicrovmTest, WhoseAnyCallFailsSaysWhetherItIsHalfDone) {
  Microvm& machine = restored();
  use(machine);
  drain(machine);
  other_.forget();
  ASSERT_TRUE(machine.revert(false).status);
  const auto calls = other_.calls();
  ASSERT_GT(calls.size(), 20U);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    SCOPED_TRACE(calls[i] + ", call " + std::to_string(i));
    use(machine);
    drain(machine);
    other_.fail_once(i, EIO);
    const RevertOutcome outcome = machine.revert(false);
    EXPECT_EQ(other_.failed(), calls[i]);
    if (kMayFail.contains(calls[i])) continue;
    ASSERT_FALSE(outcome.status);
    EXPECT_NE(outcome.status.error().message.find(calls[i]), std::string::npos) << outcome.status.error().message;
    EXPECT_EQ(outcome.is_half_done, i >= first_of(calls, "KVM_GET_MP_STATE"));
    drain(machine);
    ASSERT_TRUE(machine.revert(false).status);
    expect_as_saved(machine);
  }
}

TEST_F(RevertedMicrovmTest, IsMadeOnlyWholeAndLeavesNothingElse) {
  const Snapshot from = snapshot();
  renew_loop();
  expect_each_call_to_fail([&](FakeKvm& kvm) { return restore(kvm, from); });
}

TEST_F(RevertedMicrovmTest, ARegisterThatKvmTakesOnlyBeforeTheFirstRunRefusesIt) {
  Microvm& machine = restored();
  FakeKvm::VcpuRegisters registers = other_.registers(1);
  registers.msrs[0xC001'1029] = 2;
  other_.set_registers(1, registers);
  drain(machine);
  const RevertOutcome outcome = machine.revert(false);
  ASSERT_FALSE(outcome.status);
  EXPECT_FALSE(outcome.is_half_done);
  EXPECT_NE(outcome.status.error().message.find("MSR 0xc0011029 of vCPU 1 from 0x0 to 0x2"), std::string::npos)
      << outcome.status.error().message;
  registers.msrs[0xC001'1029] = 0;
  other_.set_registers(1, registers);
  EXPECT_TRUE(machine.revert(false).status);
}

TEST_F(RevertedMicrovmTest, GoesBackOnlyWhereItWasLoadedSo) {
  revertible_ = false;
  Microvm& machine = restored();
  use(machine);
  drain(machine);
  EXPECT_FALSE(machine.check_revert());
  const RevertOutcome outcome = machine.revert(false);
  EXPECT_FALSE(outcome.status);
  EXPECT_FALSE(outcome.is_half_done);
  EXPECT_EQ(other_.registers(0).regs.rax, 0xFFFFU);
}

TEST_F(RevertedMicrovmTest, IsNotMadeWithADriveThatIsWrittenTo) {
  const Snapshot from = snapshot();
  renew_loop();
  drive_.is_read_only = false;
  const auto board = restore(other_, from);
  ASSERT_FALSE(board);
  EXPECT_NE(board.error().message.find("drive data: the guest writes to " + drive_.path_on_host), std::string::npos)
      << board.error().message;
}

}  // namespace
}  // namespace mayfly::testing
