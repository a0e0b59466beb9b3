#include "vmm/cli/drive_tools.h"

#include "api/client/deadline.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "virtio/block/drive_layers.h"
#include "vmm/base/json_value.h"
#include "vmm/cli/exit_codes.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::content_of;
using testing::make_file;

constexpr std::size_t kImage = 1 << 20;

struct Said {
  int code = 0;
  std::string out;
};

class DriveToolsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    make_file(base_, content_.substr(0, kImage / 2));
    ASSERT_EQ(::truncate(base_.c_str(), kImage), 0);
    layers_.push_back(base_);
  }
  [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }
  Said outcome_of(const std::function<int(std::FILE*)>& run) const {
    const std::string path = file("out");
    std::FILE* out = std::fopen(path.c_str(), "w");
    const int code = run(out);
    std::fclose(out);
    return {.code = code, .out = content_of(path)};
  }
  /// Writes whole blocks of an overlay over the layers, as a drive does.
  void write(const std::string& overlay, std::uint64_t block, const std::string& bytes, bool flush = true) {
    auto image = DiskImage::open(
        {.drive_id = "d", .path_on_host = overlay, .base_paths = layers_, .cache_type = CacheType::Writeback});
    ASSERT_TRUE(image) << image.error().message;
    image->keep();
    Overlay& top = image->layers()->overlay();
    const std::uint64_t size = top.header().block_size;
    const std::uint64_t count = bytes.size() / size;
    ASSERT_EQ(::pwrite(image->fd(), bytes.data(), bytes.size(), static_cast<off_t>(top.place_of(block * size))),
              static_cast<ssize_t>(bytes.size()));
    const auto map = top.map().record(block, count);
    ASSERT_EQ(::pwrite(image->fd(), map.bytes.data(), map.bytes.size(), static_cast<off_t>(map.offset)),
              static_cast<ssize_t>(map.bytes.size()));
    top.map().publish(block, count);
    content_.replace(block * size, bytes.size(), bytes);
    if (flush) {
      ASSERT_TRUE(image->sync());
    }
  }

  testing::ScratchDirectory scratch_;
  std::string content_ = std::string(kImage / 2, 'b') + std::string(kImage / 2, '\0');
  std::string base_ = file("base");
  std::vector<std::string> layers_;
};

TEST_F(DriveToolsTest, InfoSaysWhatAnOverlayHas) {
  write(file("overlay"), 3, std::string(8192, 'o'));
  const std::vector<std::string> paths = {file("overlay")};
  const Said text = outcome_of([&](std::FILE* out) { return run_drive_info(paths, false, out); });
  EXPECT_EQ(text.code, 0);
  EXPECT_TRUE(text.out.contains("of a drive of 1.0 MiB: it has 0.0 MiB, its file takes ")) << text.out;
  EXPECT_TRUE(text.out.contains("; over a raw image\n")) << text.out;
  write(file("overlay"), 9, std::string(4096, 'n'), false);
  const Said unflushed = outcome_of([&](std::FILE* out) { return run_drive_info(paths, false, out); });
  EXPECT_TRUE(unflushed.out.ends_with("; over a raw image; not all of it is flushed\n")) << unflushed.out;
  const Said json = outcome_of([&](std::FILE* out) { return run_drive_info(paths, true, out); });
  EXPECT_TRUE(json.out.starts_with(R"([{"path":")" + file("overlay") + R"(","id":")")) << json.out;
  EXPECT_TRUE(json.out.contains(R"("drive_bytes":1048576,"block_bytes":4096,"present_bytes":12288,"disk_bytes":)"));
  EXPECT_TRUE(parse_json(json.out, "it"));
}

TEST_F(DriveToolsTest, InfoRefusesWhatIsNoOverlay) {
  const std::vector<std::string> paths = {base_};
  const Said said = outcome_of([&](std::FILE* out) { return run_drive_info(paths, false, out); });
  EXPECT_EQ(said.code, kExitError);
  EXPECT_EQ(said.out, "");
}

TEST_F(DriveToolsTest, AnExportIsWhatTheGuestSeesAndStaysSparse) {
  write(file("lower"), 3, std::string(8192, 'l'));
  layers_.push_back(file("lower"));
  write(file("overlay"), 4, std::string(8192, 'o'));
  write(file("overlay"), 255, std::string(4096, 'e'));
  EXPECT_EQ(run_drive_export(layers_, file("overlay"), file("image")), 0);
  EXPECT_TRUE(content_of(file("image")) == content_);
  struct stat status{};
  ASSERT_EQ(::stat(file("image").c_str(), &status), 0);
  EXPECT_LT(static_cast<std::size_t>(status.st_blocks) * 512, kImage);
  EXPECT_EQ(run_drive_export(layers_, file("overlay"), file("image")), kExitError) << "it is there already";
  EXPECT_TRUE(content_of(file("image")) == content_);
  EXPECT_EQ(run_drive_export({}, file("overlay"), file("other")), kExitError) << "without its layers";
  EXPECT_NE(::access(file("other").c_str(), F_OK), 0);
}

TEST_F(DriveToolsTest, AnExportThatIsKilledLeavesNoImage) {
  constexpr std::size_t kLarge = std::size_t{64} << 20;
  const std::string directory = file("made");
  ASSERT_EQ(::mkdir(directory.c_str(), 0700), 0);
  base_ = file("large");
  layers_ = {base_};
  make_file(base_, std::string(kLarge, 'b'));
  const OwnedFd changes{::inotify_init1(IN_CLOEXEC)};
  ASSERT_GE(::inotify_add_watch(changes.get(), directory.c_str(), IN_MODIFY), 0);
  write(file("over large"), 3, std::string(4096, 'o'));
  const std::string image = directory + "/image";
  const pid_t child = ::fork();
  if (child == 0) ::_exit(run_drive_export(layers_, file("over large"), image));
  ASSERT_TRUE(is_ready_by(Deadline::clock::now() + std::chrono::seconds{30}, changes.get(), POLLIN));
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  if (WIFSIGNALED(status)) {
    EXPECT_NE(::access(image.c_str(), F_OK), 0) << "it has its name before it is whole";
  }
  ::unlink(image.c_str());
  EXPECT_EQ(run_drive_export(layers_, file("over large"), image), 0) << "what was left is in nobody's way";
  EXPECT_EQ(content_of(image).size(), kLarge);
}

TEST_F(DriveToolsTest, ACommitPutsTheOverlayIntoTheLayerBelow) {
  const auto exported = [&](const std::vector<std::string>& bases, const std::string& overlay) {
    EXPECT_EQ(run_drive_export(bases, overlay, file("image")), 0);
    std::string image = content_of(file("image"));
    EXPECT_EQ(::unlink(file("image").c_str()), 0);
    return image;
  };
  ASSERT_EQ(::chmod(base_.c_str(), 0640), 0);
  write(file("lower"), 3, std::string(8192, 'l'));
  layers_.push_back(file("lower"));
  write(file("overlay"), 4, std::string(8192, 'o'));
  write(file("overlay"), 9, std::string(4096, '\0'));
  write(file("overlay"), 255, std::string(4096, 'e'));
  const std::string base = content_of(base_);
  // Into the overlay below: the base is as it was.
  EXPECT_EQ(run_drive_commit(layers_, file("overlay")), 0);
  EXPECT_NE(::access(file("overlay").c_str(), F_OK), 0);
  EXPECT_NE(::access((file("lower") + ".mayfly-new").c_str(), F_OK), 0);
  EXPECT_TRUE(content_of(base_) == base);
  EXPECT_TRUE(exported({base_}, file("lower")) == content_);
  const Said info = outcome_of([&](std::FILE* out) {
    const std::vector<std::string> paths = {file("lower")};
    return run_drive_info(paths, true, out);
  });
  EXPECT_TRUE(info.out.contains(R"("present_bytes":20480,)")) << info.out;
  EXPECT_TRUE(info.out.contains(R"("is_flushed":true)")) << info.out;
  // A next overlay is over that, and then into the base.
  write(file("overlay"), 0, std::string(4096, 'n'));
  EXPECT_EQ(run_drive_commit(layers_, file("overlay")), 0);
  layers_.pop_back();
  EXPECT_EQ(run_drive_commit(layers_, file("lower")), 0);
  EXPECT_TRUE(content_of(base_) == content_);
  struct stat status{};
  ASSERT_EQ(::stat(base_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640U);
  EXPECT_LT(static_cast<std::size_t>(status.st_blocks) * 512, kImage) << "it stays sparse";
}

TEST_F(DriveToolsTest, ACommitThatFailsChangesNothing) {
  write(file("overlay"), 3, std::string(8192, 'o'));
  const std::string base = content_of(base_);
  EXPECT_EQ(run_drive_commit({}, file("overlay")), kExitError);
  const std::vector<std::string> none = {base_};
  EXPECT_EQ(run_drive_commit(none, file("none")), kExitError);
  EXPECT_NE(::access(file("none").c_str(), F_OK), 0) << "it is not made";
  {
    const auto writer = DiskImage::open(
        DriveConfig{.drive_id = "d", .path_on_host = file("overlay"), .base_paths = {base_}, .is_read_only = false});
    ASSERT_TRUE(writer);
    EXPECT_EQ(run_drive_commit(none, file("overlay")), kExitError) << "a machine writes it";
  }
  {
    const auto reader = DiskImage::open(DriveConfig{.drive_id = "d", .path_on_host = base_, .is_read_only = true});
    ASSERT_TRUE(reader);
    EXPECT_EQ(run_drive_commit(none, file("overlay")), kExitError) << "a machine reads the base";
  }
  ASSERT_EQ(::symlink("overlay", file("link").c_str()), 0);
  EXPECT_EQ(run_drive_commit(none, file("link")), kExitError) << "the link would be removed";
  ASSERT_EQ(::utimensat(AT_FDCWD, base_.c_str(), nullptr, 0), 0);
  EXPECT_EQ(run_drive_commit(none, file("overlay")), kExitError) << "the base has changed";
  EXPECT_TRUE(content_of(base_) == base);
  EXPECT_EQ(::access(file("overlay").c_str(), F_OK), 0);
  EXPECT_EQ(::access(file("link").c_str(), F_OK), 0);
  EXPECT_NE(::access((base_ + ".mayfly-new").c_str(), F_OK), 0);
}

}  // namespace
}  // namespace mayfly
