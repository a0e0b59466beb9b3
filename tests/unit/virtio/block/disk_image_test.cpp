#include "virtio/block/disk_image.h"

#include "tests/support/child_process.h"
#include "tests/support/forbidden_call.h"
#include "tests/support/loop_device.h"

#include <fcntl.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

void expect_words(const std::string& sentence, const std::vector<std::string>& words) {
  for (const std::string& word : words)
    EXPECT_NE(sentence.find(word), std::string::npos) << "no \"" << word << "\" in: " << sentence;
}

class DiskImageTest : public ::testing::Test {
 protected:
  /// A sparse file.
  [[nodiscard]] std::string make(const std::string& name, std::uint64_t size) const {
    const std::string path = scratch_.file(name);
    const OwnedFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    EXPECT_TRUE(file);
    EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(size)), 0);
    return path;
  }
  static DriveConfig drive(const std::string& path, bool read_only = false) {
    return {.drive_id = "rootfs", .path_on_host = path, .is_read_only = read_only};
  }
  /// The sentence of the refusal.
  static std::string refusal(const DriveConfig& config, ErrorKind kind = ErrorKind::InvalidArgument) {
    const auto image = DiskImage::open(config);
    if (image) return "opened";
    EXPECT_EQ(image.error().kind, kind) << image.error().message;
    expect_words(image.error().message, {"drive rootfs: path_on_host"});
    return image.error().message;
  }

  ::mayfly::testing::ScratchDirectory scratch_;
};

TEST_F(DiskImageTest, OpensARegularFileWithItsSizeAndIdentity) {
  const std::string path = make("disk", 1 << 20);
  const auto image = DiskImage::open(drive(path));
  ASSERT_TRUE(image) << image.error().message;
  struct stat status = {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(image->size_bytes(), 1U << 20);
  EXPECT_EQ(image->sectors(), (1U << 20) / 512);
  EXPECT_EQ(image->logical_block_size(), 512U);
  EXPECT_GE(image->physical_block_size(), 512U);
  EXPECT_EQ(image->identity().inode, status.st_ino);
  EXPECT_EQ(image->identity().device, status.st_dev);
  EXPECT_EQ(image->path(), path);
  EXPECT_FALSE(image->read_only());
  EXPECT_FALSE(image->direct());
  EXPECT_EQ(::fcntl(image->fd(), F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR);
}

TEST_F(DiskImageTest, OpensReadOnlyWithoutRightToWrite) {
  const auto image = DiskImage::open(drive(make("disk", 512), true));
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_EQ(::fcntl(image->fd(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_TRUE(image->read_only());
}

TEST_F(DiskImageTest, RefusesWhatIsNotThere) {
  expect_words(refusal(drive(scratch_.file("gone")), ErrorKind::NotFound), {scratch_.file("gone"), "does not exist"});
  expect_words(refusal(drive("")), {"is empty"});
  expect_words(refusal(drive(std::string{"a\0b", 3})), {"NUL"});
}

TEST_F(DiskImageTest, RefusesWhatIsNoDisk) {
  expect_words(refusal(drive(scratch_.file(""))), {"is a directory"});
  expect_words(refusal(drive(scratch_.file(""), true)), {"is a directory"});
  expect_words(refusal(drive("/dev/full")), {"is a character device"});
  ASSERT_EQ(::mkfifo(scratch_.file("fifo").c_str(), 0600), 0);
  expect_words(refusal(drive(scratch_.file("fifo"))), {"is a FIFO"});
  expect_words(refusal(drive(scratch_.file("fifo"), true)), {"is a FIFO"});
  const OwnedFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, scratch_.file("socket").c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  expect_words(refusal(drive(scratch_.file("socket"))), {"is a socket"});
}

TEST_F(DiskImageTest, AnEmptyFileIsADiskWithoutSectors) {
  const auto image = DiskImage::open(drive(make("empty", 0)));
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_EQ(image->sectors(), 0U);
}

TEST_F(DiskImageTest, RefusesSizesThatAreNoDisk) {
  expect_words(refusal(drive(make("odd", 1000))), {"1000 bytes", "multiple of 512"});
}

/// For a moment, files are opened as another user would.
struct AsNobody {
  AsNobody() { ::setfsuid(65534); }
  ~AsNobody() { ::setfsuid(0); }
  AsNobody(const AsNobody&) = delete;
  AsNobody& operator=(const AsNobody&) = delete;
};

TEST_F(DiskImageTest, RefusesWhatIsNotPermitted) {
  if (::geteuid() != 0) GTEST_SKIP() << "takes root to become another user";
  const std::string path = make("disk", 512);
  ASSERT_EQ(::chmod(scratch_.file("").c_str(), 0755), 0);
  ASSERT_EQ(::chmod(path.c_str(), 0444), 0);
  const AsNobody nobody;
  expect_words(refusal(drive(path), ErrorKind::Permission), {"set is_read_only to true"});
  EXPECT_TRUE(DiskImage::open(drive(path, true)));
  ::setfsuid(0);
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  ::setfsuid(65534);
  expect_words(refusal(drive(path, true), ErrorKind::Permission), {"may not be opened by user"});
}

TEST_F(DiskImageTest, LetsManyReadAndOnlyOneWrite) {
  const std::string path = make("disk", 512);
  {
    const auto reader = DiskImage::open(drive(path, true));
    const auto other = DiskImage::open(drive(path, true));
    ASSERT_TRUE(reader && other);
    expect_words(refusal(drive(path), ErrorKind::State), {"in use by another drive of this machine", "is_read_only"});
  }
  {
    const auto writer = DiskImage::open(drive(path));
    ASSERT_TRUE(writer) << "the readers' locks ended with them";
    expect_words(refusal(drive(path), ErrorKind::State), {"in use by"});
    expect_words(refusal(drive(path, true), ErrorKind::State), {"in use by"});
    // Another descriptor of the file that is closed takes nothing away.
    {
      const OwnedFd passing{::open(path.c_str(), O_RDWR | O_CLOEXEC)};
    }
    expect_words(refusal(drive(path), ErrorKind::State), {"in use by"});
  }
  EXPECT_TRUE(DiskImage::open(drive(path)));
}

/// Another process that has an image open, and locked, until this is destroyed.
class Holder {
 public:
  explicit Holder(const DriveConfig& config) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const OwnedFd read_end{ends[0]};
    const OwnedFd write_end{ends[1]};
    child_ = ::fork();
    if (child_ == 0) {
      const auto image = DiskImage::open(config);
      (void)!::write(write_end.get(), image ? "y" : "n", 1);
      ::pause();
      ::_exit(0);
    }
    char held = 0;
    EXPECT_EQ(::read(read_end.get(), &held, 1), 1);
    EXPECT_EQ(held, 'y');
  }
  ~Holder() {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  [[nodiscard]] pid_t pid() const noexcept { return child_; }

 private:
  pid_t child_ = -1;
};

TEST_F(DiskImageTest, NamesTheProcessThatHoldsTheLock) {
  const std::string path = make("disk", 512);
  {
    const Holder holder{drive(path)};
    expect_words(refusal(drive(path), ErrorKind::State), {fmt::format("(process {})", holder.pid())});
  }
  EXPECT_TRUE(DiskImage::open(drive(path))) << "a lock ends with its process";
}

TEST_F(DiskImageTest, LooksThroughNoOtherProcessForARunningDrive) {
  const auto present = DiskImage::open(drive(make("present", 512)));
  ASSERT_TRUE(present);
  const std::string path = make("disk", 512);
  {
    const Holder holder{drive(path)};
    const auto refused = DiskImage::open(drive(path), *present);
    ASSERT_FALSE(refused);
    expect_words(refused.error().message, {"in use by another process"});
  }
  const auto holder = DiskImage::open(drive(path));
  const auto refused = DiskImage::open(drive(path), *present);
  ASSERT_FALSE(refused);
  expect_words(refused.error().message, {"in use by another drive of this machine"});
}

TEST_F(DiskImageTest, SyncsTheTimeOfChangeAsWell) {
  const auto image = DiskImage::open(drive(make("disk", 512)));
  ASSERT_TRUE(image);
  const auto synced_without = [&](long call) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::mayfly::testing::forbid_call(call);
      ::_exit(image->sync() ? 0 : 1);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    return WEXITSTATUS(status);
  };
  EXPECT_EQ(synced_without(SYS_fsync), 1);
  EXPECT_EQ(synced_without(SYS_fdatasync), 0) << "it need not store times";
}

TEST_F(DiskImageTest, SharesTheLockOfThePredecessorOnTheSameFile) {
  const std::string path = make("disk", 512);
  auto first = DiskImage::open(drive(path));
  ASSERT_TRUE(first);
  ASSERT_EQ(::truncate(path.c_str(), 4096), 0);
  {
    const auto second = DiskImage::open(drive(path), *first);
    ASSERT_TRUE(second) << second.error().message;
    EXPECT_EQ(second->size_bytes(), 4096U);
    EXPECT_EQ(first->size_bytes(), 512U);
  }
  expect_words(refusal(drive(path), ErrorKind::State), {"in use by"});
  const std::string other = make("other", 512);
  const auto holder = DiskImage::open(drive(other));
  EXPECT_FALSE(DiskImage::open(drive(other), *first)) << "a predecessor is no pass for other files";
}

TEST_F(DiskImageTest, OpensDirectlyBesideAViewThroughThePageCache) {
  DriveConfig config = drive(make("disk", 8192));
  config.direct = true;
  const auto image = DiskImage::open(config);
  if (!image && image.error().kind == ErrorKind::Unsupported) GTEST_SKIP() << image.error().message;
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_NE(::fcntl(image->fd(), F_GETFL) & O_DIRECT, 0);
  EXPECT_EQ(::fcntl(image->buffered_fd(), F_GETFL) & (O_DIRECT | O_NONBLOCK), 0);
  EXPECT_GE(image->file_alignment(), 512U);
  EXPECT_EQ(image->logical_block_size(), 512U) << "how an image is opened does not change its partition table's unit";
  expect_words(refusal(config, ErrorKind::State), {"in use by"});
}

// --- Block devices ---------------------------------------------------------------------------------------------------

class BlockDeviceImage : public DiskImageTest {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "device nodes take root";
    device_ = ::mayfly::testing::LoopDevice::create(make("backing", 1 << 20));
    if (!device_) GTEST_SKIP() << "this host has no loop devices to give";
    for (const std::string& node : {one_, other_}) device_->make_node(node);
  }
  std::optional<::mayfly::testing::LoopDevice> device_;
  std::string one_ = scratch_.file("one");
  std::string other_ = scratch_.file("other");
};

TEST_F(BlockDeviceImage, IsOneDiskByWhicheverNodeItIsWritten) {
  {
    const auto writer = DiskImage::open(drive(one_));
    ASSERT_TRUE(writer) << writer.error().message;
    EXPECT_EQ(writer->size_bytes(), 1U << 20);
    expect_words(refusal(drive(other_), ErrorKind::State),
                 {other_, "in use", "mounted", "another machine", "unmount it", "is_read_only"});
    expect_words(refusal(drive(one_), ErrorKind::State), {one_, "in use"});
  }
  EXPECT_TRUE(DiskImage::open(drive(other_))) << "the claim ends with the image";
}

TEST_F(BlockDeviceImage, IsNotWrittenWhileTheHostHasItForItself) {
  const OwnedFd mounted{::open(one_.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC)};  // what mount(2) does
  ASSERT_TRUE(mounted);
  expect_words(refusal(drive(other_), ErrorKind::State), {"in use", "mounted"});
  EXPECT_TRUE(DiskImage::open(drive(other_, true))) << "who only reads claims nothing";
}

TEST_F(BlockDeviceImage, CanBeGivenToItsOwnDriveAgainByAnyNode) {
  const auto first = DiskImage::open(drive(one_));
  ASSERT_TRUE(first) << first.error().message;
  for (const std::string& node : {one_, other_}) {
    const auto again = DiskImage::open(drive(node), *first);
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(again->path(), node);
  }
  expect_words(refusal(drive(other_), ErrorKind::State), {"in use"});
}

TEST_F(BlockDeviceImage, ASyncsErrorIsToldByTheNextFlushAsWell) {
  const OwnedFd memory{::memfd_create("backing", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  ASSERT_EQ(::ftruncate(memory.get(), 1 << 20), 0);
  const auto disk = ::mayfly::testing::LoopDevice::create("/proc/self/fd/" + std::to_string(memory.get()));
  ASSERT_TRUE(disk);
  const std::string node = scratch_.file("sealed");
  disk->make_node(node);
  const auto image = DiskImage::open(drive(node));
  ASSERT_TRUE(image) << image.error().message;
  ASSERT_EQ(::pwrite(image->fd(), "written", 7, 0), 7);
  ASSERT_EQ(::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);  // the disk fails, with the write in the page cache
  EXPECT_FALSE(image->sync());
  EXPECT_EQ(::fdatasync(image->fd()), -1) << "what the guest's flush does";
  EXPECT_EQ(::fdatasync(image->fd()), 0);
}

TEST_F(BlockDeviceImage, IsClaimedOnceForBothViewsOfADirectDrive) {
  DriveConfig config = drive(one_);
  config.direct = true;
  const auto image = DiskImage::open(config);
  ASSERT_TRUE(image) << image.error().message;
  EXPECT_TRUE(image->direct());
  EXPECT_TRUE(DiskImage::open(config, *image));
  config.path_on_host = other_;
  EXPECT_TRUE(DiskImage::open(config, *image));
  expect_words(refusal(drive(other_), ErrorKind::State), {"in use"});
}

}  // namespace
}  // namespace mayfly
