// The bare-metal `block` guest on real files, by the API.

#include "tests/integration/kvm_required.h"
#include "tests/support/loop_device.h"
#include "tests/support/monitor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <set>
#include <vector>

namespace mayfly::testing {
namespace {

constexpr std::size_t kSectors = 16'384;  // 8 MiB

/// An image whose 64-bit words are their own offset: what the guest expects.
std::string make_image(const ScratchDirectory& scratch, const std::string& name) {
  std::vector<std::uint64_t> words(kSectors * 512 / 8);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = i * 8;
  std::ofstream file{scratch.file(name), std::ios::binary};
  file.write(reinterpret_cast<const char*>(words.data()), static_cast<std::streamsize>(words.size() * 8));
  return scratch.file(name);
}

std::string data_drive(const std::string& path, const std::string& more) {
  return R"({"drive_id": "data", "is_root_device": false, "path_on_host": ")" + path + "\"" + more + "}";
}

class BlockTest : public KvmTest {
 protected:
  /// What the guest said.
  std::string expect_pass(const std::string& guest, const std::string& more,
                          const std::string& boot_args = "console=ttyS0") {
    Monitor monitor;
    const HttpAnswer answer = monitor.put("/drives/data", data_drive(image_, more));
    EXPECT_EQ(answer.status, 204) << answer.body;
    monitor.boot(guest, boot_args);
    const std::string console = monitor.console_to_end();
    EXPECT_NE(console.find("GUEST PASS"), std::string::npos) << console << monitor.log_until("");
    EXPECT_EQ(monitor.wait(), 0);
    return console;
  }
  ScratchDirectory scratch_;
  std::string image_ = make_image(scratch_, "disk");
};

TEST_F(BlockTest, EveryRequestTypeIsServedFromAndToAFile) { expect_pass("block", R"(, "cache_type": "Writeback")"); }

TEST_F(BlockTest, AndByTheLinux64BitProtocol) { expect_pass("block.linux64", R"(, "cache_type": "Writeback")"); }

TEST_F(BlockTest, AndPastTheHostsPageCache) { expect_pass("block", R"(, "cache_type": "Writeback", "direct": true)"); }

TEST_F(BlockTest, DiscardsAreServedWhereTheyAreOfferedAndNotOtherwise) {
  // The answers: VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP.
  const std::string with = expect_pass("block", R"(, "discard": "Unmap")");
  EXPECT_NE(with.find("discard 0"), std::string::npos) << with;
  make_image(scratch_, "disk");
  const std::string without = expect_pass("block", "");
  EXPECT_NE(without.find("discard 2"), std::string::npos) << without;
  Monitor monitor;
  ASSERT_EQ(monitor.put("/drives/data", data_drive(image_, R"(, "discard": "Unmap")")).status, 204);
  const HttpAnswer config = monitor.get("/vm/config");
  EXPECT_NE(config.body.find(R"("discard":"Unmap")"), std::string::npos) << config.body;
}

TEST_F(BlockTest, AReadOnlyDriveIsNotWritten) {
  expect_pass("block", R"(, "is_read_only": true)", "console=ttyS0 read_only=1");
  std::ifstream file{image_, std::ios::binary};
  std::uint64_t word = 0;
  for (std::size_t i = 0; file.read(reinterpret_cast<char*>(&word), 8); ++i) ASSERT_EQ(word, i * 8);
}

TEST_F(BlockTest, AHostileDriverHurtsOnlyItself) {
  Monitor monitor;
  for (const std::string id : {"victim", "witness"})
    ASSERT_EQ(monitor
                  .put("/drives/" + id, R"({"drive_id": ")" + id + R"(", "is_root_device": false, "path_on_host": ")" +
                                            make_image(scratch_, id) + "\"}")
                  .status,
              204);
  const double begin_us = now_us();
  monitor.boot("hostile_driver", "console=ttyS0");
  const std::string console = monitor.console_to_end();
  const std::string log = monitor.log_until("");
  EXPECT_NE(console.find("GUEST PASS"), std::string::npos) << console << log;
  EXPECT_EQ(monitor.wait(), 0);
  EXPECT_NE(log.find("victim"), std::string::npos) << "the log names the device: " << log;
  const auto ten_a_second = static_cast<long>((now_us() - begin_us) / 1e5);  // LogRate::kBurst, where the host is busy
  EXPECT_LT(std::ranges::count(log, '\n'), 40 + ten_a_second) << "and is not the guest's to fill: " << log;
}

TEST_F(BlockTest, TwoMachinesCannotHaveOneImageToWrite) {
  Monitor first;
  ASSERT_EQ(first.put("/drives/data", data_drive(image_, "")).status, 204);
  Monitor second;
  const HttpAnswer refused = second.put("/drives/data", data_drive(image_, ""));
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find(image_), std::string::npos) << refused.body;
  EXPECT_NE(refused.body.find("mayfly"), std::string::npos) << "names the holder: " << refused.body;
  EXPECT_EQ(first.put("/drives/data", data_drive(image_, "")).status, 204) << "its own lock is not in its way";
}

TEST_F(BlockTest, ABlockDeviceIsWrittenByOneMachineWhicheverNodeItHas) {
  if (::geteuid() != 0) GTEST_SKIP() << "device nodes take root";
  const auto device = LoopDevice::create(image_);
  if (!device) GTEST_SKIP() << "this host has no loop devices to give";
  const std::string one = scratch_.file("one");
  const std::string other = scratch_.file("other");
  for (const std::string& node : {one, other}) device->make_node(node);
  Monitor second;
  {
    Monitor first;
    const HttpAnswer taken = first.put("/drives/data", data_drive(one, R"(, "cache_type": "Writeback")"));
    ASSERT_EQ(taken.status, 204) << taken.body;
    const HttpAnswer refused = second.put("/drives/data", data_drive(other, ""));
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find(other + " is in use"), std::string::npos) << refused.body;
    first.boot("block", "console=ttyS0");
    const std::string console = first.console_to_end();
    EXPECT_NE(console.find("GUEST PASS"), std::string::npos) << console << first.log_until("");
    EXPECT_EQ(first.wait(), 0);
  }
  const HttpAnswer free = second.put("/drives/data", data_drive(other, ""));
  EXPECT_EQ(free.status, 204) << free.body;
}

TEST_F(BlockTest, AnImageIsFreeAsSoonAsItsMachineHasEnded) {
  for (int round = 0; round < 10; ++round) {
    Monitor monitor;
    const HttpAnswer answer = monitor.put("/drives/data", data_drive(image_, ""));
    ASSERT_EQ(answer.status, 204) << "round " << round << ": " << answer.body;
    monitor.boot("block_bench", "console=ttyS0 depth=32 size=4096 count=1000000000 write=1 sequential=0");
    monitor.console_until("BENCH START");
    monitor.signal(SIGTERM);
    ASSERT_EQ(monitor.wait(), 143);
  }
}

TEST_F(BlockTest, BadImagesAreRefusedEachByItsOwnSentence) {
  Monitor monitor;
  const auto refusal = [&](const std::string& path, const std::string& more = "") {
    const HttpAnswer answer = monitor.put("/drives/data", data_drive(path, more));
    EXPECT_EQ(answer.status, 400) << path;
    EXPECT_NE(answer.body.find("data"), std::string::npos) << answer.body;
    return answer.body;
  };
  std::set<std::string> sentences;
  const auto is_new = [&](std::string body, const std::string& path) {
    if (const auto at = body.find(path); at != std::string::npos) body.replace(at, path.size(), "PATH");
    EXPECT_TRUE(sentences.insert(body).second) << body;
  };
  is_new(refusal("/no/such/file"), "/no/such/file");
  is_new(refusal("/tmp"), "/tmp");
  const std::string fifo = scratch_.file("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  is_new(refusal(fifo), fifo);
  const std::string odd = scratch_.file("odd");
  std::ofstream{odd} << std::string(700, 'x');
  is_new(refusal(odd), odd);
  is_new(refusal("/dev/urandom"), "/dev/urandom");
  EXPECT_EQ(monitor.put("/drives/data", data_drive(image_, "")).status, 204) << "the API goes on answering";
}

TEST_F(BlockTest, AMachineHasOneRootDevice) {
  Monitor monitor;
  const std::string other = make_image(scratch_, "other");
  const auto put = [&](const std::string& id, const std::string& path) {
    return monitor.put("/drives/" + id,
                       R"({"drive_id": ")" + id + R"(", "is_root_device": true, "path_on_host": ")" + path + "\"}");
  };
  ASSERT_EQ(put("first", image_).status, 204);
  const HttpAnswer refused = put("second", other);
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("first"), std::string::npos) << refused.body;
  const HttpAnswer config = monitor.get("/vm/config");
  EXPECT_EQ(config.body.find("second"), std::string::npos) << "refused, and nothing kept: " << config.body;
}

TEST_F(BlockTest, EightDrivesAreServedAtOnce) {
  Monitor monitor;
  for (int i = 0; i < 8; ++i) {
    const std::string id = i == 0 ? "data" : "data" + std::to_string(i);
    const HttpAnswer answer =
        monitor.put("/drives/" + id, R"({"drive_id": ")" + id + R"(", "is_root_device": false, "path_on_host": ")" +
                                         make_image(scratch_, id) + "\"}");
    ASSERT_EQ(answer.status, 204) << answer.body;
  }
  monitor.boot("block", "console=ttyS0");
  EXPECT_NE(monitor.console_to_end().find("GUEST PASS"), std::string::npos);
  EXPECT_EQ(monitor.wait(), 0);
}

}  // namespace
}  // namespace mayfly::testing
