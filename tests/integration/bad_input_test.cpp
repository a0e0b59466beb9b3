// What clients and users get wrong: each answer is a sentence that names field and value, the machine stays as it was,
// and the API goes on answering.

#include "snapshot/host_cpu.h"
#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"
#include "vmm/kvm/kvm.h"

#include <elf.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace mayfly::testing {
namespace {

std::string kernel_json(const std::string& path) { return R"({"kernel_image_path": ")" + path + "\"}"; }
constexpr const char* kStart = R"({"action_type": "InstanceStart"})";

/// A refusal with a sentence that holds all of `words`.
void expect_refused(const HttpAnswer& answer, const std::vector<std::string>& words, int status = 400) {
  EXPECT_EQ(answer.status, status) << answer.body;
  EXPECT_NE(answer.body.find("fault_message"), std::string::npos) << answer.body;
  for (const std::string& word : words) EXPECT_NE(answer.body.find(word), std::string::npos) << answer.body;
}

class BadInput : public KvmTest {
 protected:
  void expect_not_started() {
    EXPECT_NE(monitor_.get("/").body.find("Not started"), std::string::npos) << "the API must go on answering";
  }
  /// The kernel is refused at its configuration or at the start; either way the machine is as before.
  void expect_kernel_refused(const std::string& path, const std::vector<std::string>& words) {
    HttpAnswer answer = monitor_.put("/boot-source", kernel_json(path));
    if (answer.status == 204) answer = monitor_.put("/actions", kStart);
    expect_refused(answer, words);
    expect_not_started();
  }
  Monitor monitor_;
};

TEST_F(BadInput, KernelsThatAreNone) {
  const std::string real = content_of(guest_path("hello"));
  expect_kernel_refused(monitor_.file("missing"), {"kernel_image_path", "missing"});
  expect_kernel_refused(monitor_.file(""), {"kernel_image_path", "directory"});
  expect_kernel_refused(make_file(monitor_.file("empty"), ""), {"kernel_image_path", "empty"});
  expect_kernel_refused(make_file(monitor_.file("text"), "echo no kernel\n"), {"kernel_image_path"});
  expect_kernel_refused(make_file(monitor_.file("truncated"), real.substr(0, real.size() / 2)), {"truncated"});
  expect_kernel_refused(make_file(monitor_.file("header"), real.substr(0, 40)), {"header"});
  std::string narrow = real;
  narrow[EI_CLASS] = ELFCLASS32;
  expect_kernel_refused(make_file(monitor_.file("narrow"), narrow), {"32-bit"});
}

TEST_F(BadInput, KernelsWhoseSegmentsLeaveMemoryOrOverlap) {
  std::string image = content_of(guest_path("hello"));
  Elf64_Ehdr header{};
  std::memcpy(&header, image.data(), sizeof header);
  const auto edit = [&](const char* name, auto change) {
    std::string edited = image;
    for (unsigned i = 0; i < header.e_phnum; ++i) {
      char* at = edited.data() + header.e_phoff + i * sizeof(Elf64_Phdr);
      Elf64_Phdr segment{};
      std::memcpy(&segment, at, sizeof segment);
      if (segment.p_type == PT_LOAD) change(segment);
      std::memcpy(at, &segment, sizeof segment);
    }
    return make_file(monitor_.file(name), edited);
  };
  expect_kernel_refused(edit("outside", [](Elf64_Phdr& segment) { segment.p_paddr += 1ULL << 29; }),
                        {"kernel_image_path", "memory"});
  expect_kernel_refused(edit("wraps", [](Elf64_Phdr& segment) { segment.p_paddr = ~0ULL - 100; }),
                        {"kernel_image_path"});
  expect_kernel_refused(edit("overlap", [](Elf64_Phdr& segment) { segment.p_paddr = 0x100000; }), {"overlap"});
}

TEST_F(BadInput, AnInitrdThatDoesNotFit) {
  ASSERT_EQ(monitor_.put("/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 16})").status, 204);
  const std::string initrd = make_file(monitor_.file("initrd"), "x");
  ASSERT_EQ(::truncate(initrd.c_str(), 64 << 20), 0);
  ASSERT_EQ(monitor_
                .put("/boot-source",
                     R"({"kernel_image_path": ")" + guest_path("hello") + R"(", "initrd_path": ")" + initrd + "\"}")
                .status,
            204);
  expect_refused(monitor_.put("/actions", kStart), {"initrd_path"});
  expect_not_started();
}

TEST_F(BadInput, CommandLinesThatAreTooLongOrHoldANul) {
  const std::string kernel = R"({"kernel_image_path": ")" + guest_path("hello") + R"(", "boot_args": ")";
  expect_refused(monitor_.put("/boot-source", kernel + std::string(2048, 'a') + "\"}"), {"boot_args", "2047"});
  expect_refused(monitor_.put("/boot-source", kernel + R"(a\u0000b"})"), {"boot_args", "NUL"});
  expect_not_started();
}

TEST_F(BadInput, CpusAndMemoryThatNoMachineHas) {
  const auto put = [&](const std::string& body) { return monitor_.put("/machine-config", body); };
  expect_refused(put(R"({"vcpu_count": 0, "mem_size_mib": 128})"), {"vcpu_count", "0"});
  expect_refused(put(R"({"vcpu_count": 33, "mem_size_mib": 128})"), {"vcpu_count", "33"});
  expect_refused(put(R"({"vcpu_count": 1, "mem_size_mib": 0})"), {"mem_size_mib", "0"});
  expect_refused(put(R"({"vcpu_count": 1, "mem_size_mib": 99999999999})"), {"mem_size_mib", "99999999999"});
  expect_refused(put(R"({"vcpu_count": 1, "mem_size_mib": 127, "huge_pages": "2M"})"), {"mem_size_mib", "127"});
  expect_refused(put(R"({"vcpu_count": 1, "mem_size_mib": -1})"), {"mem_size_mib"});
  expect_refused(put(R"({"vcpu_count": "two", "mem_size_mib": 128})"), {"vcpu_count", "two"});
  expect_refused(put(R"({"vcpu_count": 1})"), {"mem_size_mib"});
  expect_refused(put(R"({"vcpu_count": 1, "mem_size_mib": 128, "colour": 1})"), {"colour"});
  EXPECT_NE(monitor_.get("/machine-config").body.find("\"mem_size_mib\":128"), std::string::npos);
}

TEST_F(BadInput, ARunningMachineRefusesItsConfigurationAndAnotherStart) {
  monitor_.boot("spin");
  for (const char* path : {"/boot-source", "/machine-config", "/serial", "/logger", "/metrics", "/cpu-config"}) {
    const HttpAnswer answer =
        monitor_.put(path, path == std::string{"/boot-source"}      ? kernel_json(guest_path("hello"))
                           : path == std::string{"/machine-config"} ? R"({"vcpu_count": 1, "mem_size_mib": 64})"
                           : path == std::string{"/metrics"}        ? R"({"metrics_path": "/dev/null"})"
                                                                    : "{}");
    expect_refused(answer, {path, "Running"});
  }
  expect_refused(monitor_.put("/actions", kStart), {"InstanceStart", "Running"});
  EXPECT_NE(monitor_.get("/").body.find("Running"), std::string::npos);
}

TEST_F(BadInput, HttpThatIsMalformedTruncatedOrOversized) {
  const auto send_raw = [&](const std::string& bytes) {
    const OwnedFd connection = connect_unix(monitor_.socket_path());
    EXPECT_EQ(::send(connection.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
    ::shutdown(connection.get(), SHUT_WR);
    std::string answer;
    read_until(connection.get(), answer, "");
    return answer;
  };
  EXPECT_TRUE(send_raw("no http at all\r\n\r\n").starts_with("HTTP/1.1 400"));
  send_raw("PUT /machine-config HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"vcpu");  // hangs up in the middle
  expect_refused(monitor_.put("/machine-config", "{\"vcpu_count\": 1, "), {});
  expect_refused(monitor_.put("/machine-config", std::string(60'000, ' ')), {}, 413);
  Monitor fresh;
  EXPECT_NE(fresh.get("/").body.find("Not started"), std::string::npos);
  const OwnedFd connection = connect_unix(monitor_.socket_path());
  EXPECT_EQ(exchange(connection.get(), "GET", "/", "").status, 200);
}

TEST_F(BadInput, AClientThatSendsByteByByteAndStallsKeepsNobodyWaitingAndIsCutOff) {
  const OwnedFd slow = connect_unix(monitor_.socket_path());
  for (const char byte : std::string{"PUT /machine-config HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"}) {
    ASSERT_EQ(::send(slow.get(), &byte, 1, MSG_NOSIGNAL), 1);
    ASSERT_EQ(monitor_.get("/").status, 200);
  }
  std::string answer;
  read_until(slow.get(), answer, "");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 408")) << answer;
  expect_not_started();
}

TEST_F(BadInput, UnknownPathsAndDevicesThatMayflyDoesNotHave) {
  expect_refused(monitor_.get("/nonsense"), {"/nonsense"});
  expect_refused(monitor_.send("DELETE", "/machine-config"), {"DELETE"});
  expect_refused(monitor_.put("/balloon", "{}"), {"balloon"});
  expect_refused(monitor_.put("/vsock", "{}"), {"vsock"});
}

TEST_F(BadInput, AStartThatFailsLateCanBeMendedAndTriedAgain) {
  ASSERT_EQ(monitor_.put("/boot-source", kernel_json(guest_path("hello"))).status, 204);
  ASSERT_EQ(monitor_
                .put("/cpu-config",
                     R"({"msr_modifiers": [{"addr": "0x12345678", "bitmap": "0b)" + std::string(64, '1') + "\"}]}")
                .status,
            204);
  for (int attempt = 0; attempt < 3; ++attempt) {
    expect_refused(monitor_.put("/actions", kStart), {"0x12345678"});
    expect_not_started();
  }
  ASSERT_EQ(monitor_.put("/cpu-config", "{}").status, 204);
  ASSERT_EQ(monitor_
                .put("/boot-source",
                     R"({"kernel_image_path": ")" + guest_path("hello") + R"(", "boot_args": "console=ttyS0"})")
                .status,
            204);
  ASSERT_EQ(monitor_.put("/actions", kStart).status, 204);
  EXPECT_NE(monitor_.console_to_end().find("GUEST PASS"), std::string::npos);
  EXPECT_EQ(monitor_.wait(), 0);
}

TEST_F(BadInput, WhatTheCpuLacksIsNotShownToAGuest) {
  ASSERT_EQ(monitor_.put("/boot-source", kernel_json(guest_path("hello"))).status, 204);
  const auto shows = [&](const char* leaf, const char* reg, unsigned bit) {
    return monitor_
        .put("/cpu-config",
             fmt::format(R"({{"cpuid_modifiers": [{{"leaf": "{}", "subleaf": "0", "flags": {}, "modifiers": )"
                         R"([{{"register": "{}", "bitmap": "0b1{}"}}]}}]}})",
                         leaf, std::string_view{leaf} == "7" ? 1 : 0, reg, std::string(bit, 'x')))
        .status;
  };
  ASSERT_EQ(shows("7", "ebx", 27), 204);  // of a few processors that nobody makes any more
  expect_refused(monitor_.put("/actions", kStart), {"cpu-config shows the guest avx512er", "doctor --cpu"});
  expect_not_started();
  ASSERT_EQ(shows("0", "ecx", 31), 204);  // of no vendor's name
  expect_refused(monitor_.put("/actions", kStart), {"cpu-config shows the guest a processor of"});
  expect_not_started();
  ASSERT_EQ(monitor_.put("/cpu-config", "{}").status, 204);
  const std::string foreign = this_host_cpu().vendor == "AuthenticAMD" ? "T2S" : "T2A";
  ASSERT_EQ(monitor_.send("PATCH", "/machine-config", R"({"cpu_template": ")" + foreign + "\"}").status, 204);
  expect_refused(monitor_.put("/actions", kStart), {"cpu_template " + foreign + " is for processors of"});
  expect_not_started();
  ASSERT_EQ(monitor_.send("PATCH", "/machine-config", R"({"cpu_template": "T2"})").status, 204);
  ASSERT_EQ(monitor_.put("/actions", kStart).status, 204);
  EXPECT_NE(monitor_.console_to_end().find("GUEST PASS"), std::string::npos);
  EXPECT_EQ(monitor_.wait(), 0);
}

TEST_F(BadInput, ARefusedConfigurationFileEndsTheProcessEvenWhileAClientWaits) {
  const std::string config =
      make_file(monitor_.file("config"), R"({"boot-source": {"kernel_image_path": ")" +
                                             make_file(monitor_.file("kernel"), "no kernel at all") + "\"}}");
  for (int round = 0; round < 20; ++round) {
    const std::string socket = monitor_.file("second" + std::to_string(round));
    ChildProcess second{{monitor_binary(), "--api-sock", socket, "--config-file", config}, {}};
    std::atomic<bool> ended{false};
    std::thread client{[&] {
      while (!ended) {
        const OwnedFd connection = connect_unix(socket);
        if (!connection) continue;
        try {
          exchange(connection.get(), "GET", "/", "");
        } catch (const std::runtime_error&) {
          // Ended before it could answer: just as good.
        }
      }
    }};
    EXPECT_EQ(second.wait(), 152);
    ended = true;
    client.join();
  }
}

TEST_F(BadInput, SmtOfAnOddCountIsRefusedHoweverItComesAbout) {
  ASSERT_EQ(monitor_.put("/machine-config", R"({"vcpu_count": 3, "mem_size_mib": 64})").status, 204);
  expect_refused(monitor_.patch("/machine-config", R"({"smt": true})"), {"vcpu_count is 3", "smt"});
  EXPECT_NE(monitor_.get("/machine-config").body.find("\"smt\":false"), std::string::npos);
}

TEST_F(BadInput, ASocketThatIsInUseIsLeftToItsOwner) {
  Pipe err;
  ChildProcess second{{monitor_binary(), "--api-sock", monitor_.socket_path()}, {.err = err.write.get()}};
  err.write.reset();
  std::string said;
  read_until(err.read.get(), said, "");
  EXPECT_EQ(second.wait(), 1);
  EXPECT_NE(said.find(monitor_.socket_path()), std::string::npos) << said;
  expect_not_started();
}

TEST(BadSocket, APathThatIsTooLongIsRefusedWithTheLimit) {
  Pipe err;
  ChildProcess monitor{{monitor_binary(), "--api-sock", "/tmp/" + std::string(120, 'a')}, {.err = err.write.get()}};
  err.write.reset();
  std::string said;
  read_until(err.read.get(), said, "");
  EXPECT_EQ(monitor.wait(), 1);
  EXPECT_NE(said.find("107"), std::string::npos) << said;
}

/// What `mayfly run` says on standard error of a kernel that is not there.
std::string said_of_a_missing_kernel(const std::vector<std::string>& arguments) {
  Pipe err;
  std::vector<std::string> all = {monitor_binary(), "run", "--kernel", "/nonexistent/kernel"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  ChildProcess run{all, {.err = err.write.get()}};
  err.write.reset();
  std::string said;
  read_until(err.read.get(), said, "");
  EXPECT_EQ(run.wait(), 152);
  return said;
}

TEST(BadRun, ARefusalIsSaidOnceAndLoggedToAFile) {
  const std::string once = said_of_a_missing_kernel({});
  EXPECT_TRUE(once.starts_with("mayfly: kernel_image_path /nonexistent/kernel")) << once;
  EXPECT_EQ(once.find('\n'), once.size() - 1) << once;
  const ScratchDirectory scratch;
  EXPECT_EQ(said_of_a_missing_kernel({"--log-path", scratch.file("log")}), once);
  EXPECT_NE(content_of(scratch.file("log")).find("PUT /boot-source refused: kernel_image_path"), std::string::npos);
}

TEST(Warnings, AreLoggedWhereTheConfigurationHasTheLogGo) {
  const ScratchDirectory scratch;
  const std::string log = scratch.file("log");
  const std::string config =
      make_file(scratch.file("config"), R"({"_comment": "mine", "logger": {"log_path": ")" + log +
                                            R"("}, "boot-source": {"kernel_image_path": "/none"}})");
  ChildProcess monitor{{monitor_binary(), "--no-api", "--enable-pci", "--config-file", config}, {}};
  EXPECT_EQ(monitor.wait(), 152);
  const std::string text = content_of(log);
  EXPECT_NE(text.find("--enable-pci has no effect: there is no PCI, the guest's devices are virtio-mmio"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("--config-file " + config + R"(: unknown sections have no effect: "_comment")"),
            std::string::npos)
      << text;
}

TEST(LogModule, OfTheCommandLineIsTheConfigurations) {
  Monitor monitor{{"--module", "nothing/is/called/so"}};
  EXPECT_NE(monitor.get("/vm/config").body.find(R"("module":"nothing/is/called/so")"), std::string::npos);
}

/// A monitor that finds another /dev: `prepare`, of a shell with a mount namespace of its own, sees to it.
class OtherDev : public ::testing::Test {
 protected:
  void SetUp() override {
    if (ChildProcess{{"unshare", "--mount", "mount", "-t", "tmpfs", "none", "/dev"}, {}}.wait() != 0)
      GTEST_SKIP() << "a mount namespace of one's own is not permitted";
  }
  static void expect_start_refused(const std::string& prepare, const std::string& why) {
    Monitor monitor{{}, {"unshare", "--mount", "sh", "-c", prepare + " && exec \"$@\"", "sh"}};
    ASSERT_EQ(monitor.put("/boot-source", kernel_json(guest_path("hello"))).status, 204);
    for (int attempt = 0; attempt < 2; ++attempt) {
      expect_refused(monitor.put("/actions", kStart), {"/dev/kvm " + why});
      EXPECT_NE(monitor.get("/").body.find("Not started"), std::string::npos);
    }
    monitor.signal(SIGTERM);
    EXPECT_EQ(monitor.wait(), 143);
  }
};

TEST_F(OtherDev, WithoutKvmAStartIsRefusedAndTheApiGoesOn) {
  expect_start_refused("mount -t tmpfs none /dev", "is not there: load the kvm_intel or kvm_amd module");
}

TEST_F(OtherDev, WithoutThePermissionForKvmAStartIsRefusedAndTheApiGoesOn) {
  // Root without its power over permissions: another user might not even reach the binary.
  expect_start_refused(
      "mount -t tmpfs none /dev && touch /dev/kvm && chmod 0 /dev/kvm && "
      "set -- setpriv --bounding-set=-dac_override,-dac_read_search \"$@\"",
      "may not be opened: add this user to the group");
}

TEST(KvmDevice, AHostWithoutItIsToldWhatToDo) {
  const auto missing = Kvm::open(KvmCalls::host(), "/nonexistent/kvm");
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message.find("/nonexistent/kvm is not there"), std::string::npos);
  EXPECT_NE(missing.error().message.find("kvm_intel or kvm_amd"), std::string::npos);
  const auto other = Kvm::open(KvmCalls::host(), "/dev/null");
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("is it KVM's device?"), std::string::npos) << other.error().message;
}

TEST(KvmDeviceDeathTest, AUserWhoMayNotOpenItIsToldWhatToDo) {
  if (::access("/dev/kvm", F_OK) != 0) GTEST_SKIP() << "/dev/kvm is missing";
  if (::geteuid() != 0) GTEST_SKIP() << "only root can take a permission away";
  struct stat status{};
  ASSERT_EQ(::stat("/dev/kvm", &status), 0);
  if ((status.st_mode & S_IROTH) != 0) GTEST_SKIP() << "everybody may open /dev/kvm here";
  EXPECT_EXIT(
      {
        const bool dropped = ::setresgid(65534, 65534, 65534) == 0 && ::setresuid(65534, 65534, 65534) == 0;
        const auto kvm = Kvm::open();
        if (dropped && !kvm) std::fputs(kvm.error().message.c_str(), stderr);
        std::_Exit(dropped && !kvm ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "may not be opened: add this user to the group");
}

}  // namespace
}  // namespace mayfly::testing
