// The bare-metal guests, each booted by the API on this machine's /dev/kvm, by both protocols.

#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"
#include "tests/support/repeats.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <exception>

namespace mayfly::testing {
namespace {

struct Guest {
  const char* name;
  const char* boot_args = "console=ttyS0";
  unsigned vcpus = 1;
};

void PrintTo(const Guest& guest, std::ostream* out) { *out << guest.name; }

class PassingGuest : public KvmTest, public ::testing::WithParamInterface<Guest> {
 protected:
  static void expect_pass(const std::string& file) {
    Monitor monitor;
    ASSERT_EQ(
        monitor
            .put("/machine-config", R"({"mem_size_mib": 128, "vcpu_count": )" + std::to_string(GetParam().vcpus) + "}")
            .status,
        204);
    monitor.boot(file, GetParam().boot_args);
    const std::string console = monitor.console_to_end();
    EXPECT_NE(console.find("GUEST PASS"), std::string::npos) << console;
    EXPECT_EQ(monitor.wait(), 0) << monitor.log_until("");
  }
};

TEST_P(PassingGuest, PassesByPvh) { expect_pass(GetParam().name); }

TEST_P(PassingGuest, PassesByTheLinux64BitProtocol) { expect_pass(std::string{GetParam().name} + ".linux64"); }

INSTANTIATE_TEST_SUITE_P(All, PassingGuest,
                         ::testing::Values(Guest{"hello"}, Guest{"boot_info", "console=ttyS0 expect_memory_mib=128"},
                                           Guest{"pit"}, Guest{"halts"}, Guest{"ioapic"}, Guest{"ports"},
                                           Guest{"mmio_holes"}, Guest{"smp", "console=ttyS0 cpus=4", 4}),
                         [](const auto& info) { return std::string{info.param.name}; });

struct Ending {
  const char* guest;
  int exit_code;
  const char* log;
};

void PrintTo(const Ending& ending, std::ostream* out) { *out << ending.guest; }

class EndingGuest : public KvmTest, public ::testing::WithParamInterface<Ending> {};

TEST_P(EndingGuest, EndsTheMonitorWithItsOwnExitCodeAndALogLine) {
  Monitor monitor;
  monitor.boot(GetParam().guest);
  const std::string log = monitor.log_until("");
  EXPECT_NE(log.find(GetParam().log), std::string::npos) << log;
  EXPECT_EQ(monitor.wait(), GetParam().exit_code) << log;
}

INSTANTIATE_TEST_SUITE_P(All, EndingGuest,
                         ::testing::Values(Ending{"reset", 0, "asked for a reset"},
                                           Ending{"power_off", 10, "switched itself off"},
                                           Ending{"panic", 11, "kernel panicked"},
                                           Ending{"triple_fault", 12, "triple fault"},
                                           Ending{"execute_mmio", 13, "vCPU 0: KVM"}),
                         [](const auto& info) { return std::string{info.param.guest}; });

/// About a hundred dots a second.
constexpr const char* kTicking = "tick=3000000";

class GuestTest : public KvmTest {};

TEST_F(GuestTest, AnInstructionThatKvmCannotEmulateIsReportedWithItsAddressAndBytes) {
  Monitor monitor;
  monitor.boot("unknown_instruction");
  const std::string log = monitor.log_until("");
  const int code = monitor.wait();
  // A CPU with hardware virtualization runs kernel code itself: nothing is emulated.
  const std::string cpus = content_of("/proc/cpuinfo");
  if (cpus.find(" vmx ") != std::string::npos || cpus.find(" svm ") != std::string::npos) {
    EXPECT_EQ(code, 0) << log;
    return;
  }
  EXPECT_EQ(code, 13) << log;
  EXPECT_NE(log.find("KVM cannot emulate the guest's instruction"), std::string::npos) << log;
  EXPECT_NE(log.find("at address 0x"), std::string::npos) << log;
  EXPECT_NE(log.find("instruction bytes f3 48 0f b8"), std::string::npos) << log;  // POPCNT
  EXPECT_NE(log.find("rip=0x"), std::string::npos) << log;
}

TEST_F(GuestTest, InputIsGivenToTheGuestWholeHoweverFastItComes) {
  Monitor monitor;
  monitor.boot("serial_echo");
  monitor.console_until("echo ready");
  std::string keys;
  for (int i = 0; i < 2000; ++i) keys += static_cast<char>('a' + i % 26);
  monitor.type(keys + "\n");
  const std::string console = monitor.console_to_end();
  EXPECT_NE(console.find(keys), std::string::npos) << console;
  EXPECT_EQ(monitor.wait(), 0);
}

TEST_F(GuestTest, AReaderOfTheConsoleThatGoesAwayDoesNotStopTheGuest) {
  Monitor monitor;
  monitor.stop_reading_console();
  monitor.boot("serial_flood", "bytes=8000");  // what the monitor cannot keep either is the next test's
  EXPECT_EQ(monitor.wait(), 0) << monitor.log_until("");
}

TEST_F(GuestTest, AReaderOfTheConsoleThatStopsDoesNotStopTheGuest) {
  Monitor monitor;  // nobody reads the pipe: it fills, then the monitor's buffer, then output is dropped
  monitor.keep_console_small();
  monitor.boot("serial_flood", kMoreThanTheConsoleKeeps);
  EXPECT_EQ(monitor.wait(), 0) << monitor.log_until("");
}

TEST_F(GuestTest, SerialOutputGoesToTheConfiguredFile) {
  Monitor monitor;
  const std::string path = monitor.file("serial.out");
  ASSERT_EQ(monitor.put("/serial", R"({"serial_out_path": ")" + path + "\"}").status, 204);
  monitor.boot("hello");
  EXPECT_EQ(monitor.wait(), 0);
  const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  std::string text;
  read_until(file.get(), text, "GUEST PASS");
}

TEST_F(GuestTest, SigtermEndsARunningMachineCleanly) {
  Monitor monitor;
  monitor.boot("spin");
  monitor.signal(SIGTERM);
  EXPECT_EQ(monitor.wait(), 143);
  EXPECT_NE(::access(monitor.socket_path().c_str(), F_OK), 0) << "the socket's file was left behind";
}

TEST_F(GuestTest, NoCommandIsTakenThatWasSentAfterSigterm) {
  for (int i = 0; i < 20; ++i) {
    Monitor monitor;
    monitor.boot("spin");
    monitor.signal(SIGTERM);
    int status = 0;
    try {
      status = monitor.patch("/vm", R"({"state": "Paused"})").status;
    } catch (const std::exception&) {  // it has ended before it could answer
    }
    EXPECT_NE(status, 204);
    EXPECT_EQ(monitor.wait(), 143);
  }
}

TEST_F(GuestTest, CtrlAltDelEndsAGuestThatListens) {
  Monitor monitor;
  monitor.boot("keyboard");
  monitor.console_until("listening");
  EXPECT_EQ(monitor.put("/actions", R"({"action_type": "SendCtrlAltDel"})").status, 204);
  EXPECT_EQ(monitor.wait(), 0);
}

TEST_F(GuestTest, CtrlAltDelOfAPausedGuestIsSeenOnceItGoesOn) {
  Monitor monitor;
  monitor.boot("keyboard");
  monitor.console_until("listening");
  ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
  const HttpAnswer pressed = monitor.put("/actions", R"({"action_type": "SendCtrlAltDel"})");
  EXPECT_EQ(pressed.status, 204) << pressed.body;
  const ScratchDirectory scratch;
  const std::string state = scratch.file("state");
  const std::string memory = scratch.file("memory");
  const HttpAnswer taken =
      monitor.put("/snapshot/create", R"({"snapshot_path": ")" + state + R"(", "mem_file_path": ")" + memory + "\"}");
  ASSERT_EQ(taken.status, 204) << taken.body;
  ASSERT_EQ(monitor.patch("/vm", R"({"state": "Resumed"})").status, 204);
  EXPECT_EQ(monitor.wait(), 0);
  Monitor clone;
  const HttpAnswer loaded = clone.put("/snapshot/load", R"({"snapshot_path": ")" + state + R"(", "mem_file_path": ")" +
                                                            memory + R"(", "resume_vm": true})");
  ASSERT_EQ(loaded.status, 204) << loaded.body;
  EXPECT_EQ(clone.wait(), 0) << "the keys are part of the snapshot";
}

TEST_F(GuestTest, APausedGuestStandsStillAndGoesOnWhenResumed) {
  Monitor monitor;
  monitor.boot("spin", kTicking);
  monitor.console_until(".");
  ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
  EXPECT_NE(monitor.get("/").body.find("\"Paused\""), std::string::npos);
  const auto cpu_time = [&] { return monitor.cpu_time_ticks(); };
  const auto before = cpu_time();
  for (int i = 0; i < 200; ++i) ASSERT_EQ(monitor.get("/").status, 200);  // time in which it could run
  EXPECT_LE(cpu_time() - before, 20) << "a paused guest used CPU time";
  const std::size_t said = monitor.console_until(".").size();
  ASSERT_EQ(monitor.patch("/vm", R"({"state": "Resumed"})").status, 204);
  while (monitor.console_more() <= said) {
  }
  EXPECT_NE(monitor.get("/").body.find("\"Running\""), std::string::npos);
}

TEST_F(GuestTest, PauseAndResumeAThousandTimesLoseNothing) {
  Monitor monitor;
  ASSERT_EQ(monitor.put("/machine-config", R"({"mem_size_mib": 64, "vcpu_count": 2})").status, 204);
  monitor.boot("spin");
  for (int i = 0; i < repeats(1000, 200); ++i) {
    ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204) << i;
    ASSERT_EQ(monitor.patch("/vm", R"({"state": "Resumed"})").status, 204) << i;
  }
  monitor.signal(SIGINT);
  EXPECT_EQ(monitor.wait(), 130);
}

TEST_F(GuestTest, TheBootTimerLogsWhenTheGuestHasBooted) {
  Monitor monitor{{"--boot-timer"}};
  monitor.boot("first_instruction");
  const std::string log = monitor.log_until("");
  EXPECT_NE(log.find("Guest-boot-time = "), std::string::npos) << log;
  EXPECT_EQ(monitor.wait(), 0);
}

TEST_F(GuestTest, TheBootTimerIsAlsoWhereFirecrackersGuestsLookForIt) {
  Monitor monitor{{"--boot-timer"}};
  monitor.boot("mmio_boot_timer");
  const std::string log = monitor.log_until("");
  EXPECT_NE(log.find("Guest-boot-time = "), std::string::npos) << log;
  EXPECT_EQ(monitor.wait(), 0);
}

}  // namespace
}  // namespace mayfly::testing
