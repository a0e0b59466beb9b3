#include "rootfs-tools/agent/tree.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::agent {
namespace {

namespace fs = std::filesystem;

class TreeReceiverTest : public ::testing::Test {
 protected:
  TreeReceiverTest() { fs::create_directory(place()); }

  [[nodiscard]] std::string place() const { return scratch_.file("place"); }
  [[nodiscard]] std::string inside(const std::string& name) const { return place() + '/' + name; }

  /// What a receiver says to these frames, in the directory `place` as "root"; empty: it took all of them.
  std::string taken(const std::vector<std::pair<FrameType, std::string>>& frames,
                    SetIdBits set_id = SetIdBits::Cleared) {
    TreeDestination destination{.directory = OwnedFd{::open(place().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)},
                                .name = "root"};
    TreeReceiver receiver{std::move(destination), set_id, hooks_};
    bool done = false;
    for (const auto& [type, payload] : frames) {
      const auto took = receiver.take({.type = type, .payload = payload});
      if (!took) return took.error().message;
      done = *took;
    }
    return done ? "" : "the tree has no end";
  }

  /// All files, but for the scratch directory's own.
  [[nodiscard]] std::set<std::string> files() const {
    std::set<std::string> found;
    for (const auto& each : fs::recursive_directory_iterator(scratch_.file("")))
      found.insert(each.path().lexically_relative(scratch_.file("")));
    return found;
  }

  const testing::ScratchDirectory scratch_;
  TreeHooks hooks_;
};

std::pair<FrameType, std::string> entry(EntryType type, std::string name, std::string target = "",
                                        std::uint32_t mode = 0755) {
  return {FrameType::Entry, encode(TreeEntry{.type = type,
                                             .mode = mode,
                                             .uid = ::getuid(),
                                             .gid = ::getgid(),
                                             .seconds = 1'500'000'000,
                                             .nanoseconds = 7,
                                             .name = std::move(name),
                                             .target = std::move(target)})};
}

const std::pair<FrameType, std::string> kRootEntry = entry(EntryType::Directory, "");
const std::pair<FrameType, std::string> kLeaveFrame{FrameType::Leave, ""};
const std::pair<FrameType, std::string> kTreeEndFrame{FrameType::TreeEnd, ""};

TEST_F(TreeReceiverTest, MakesWhatItIsSent) {
  EXPECT_EQ(taken({kRootEntry,
                   entry(EntryType::File, "file", "", 0640),
                   {FrameType::Data, "da"},
                   {FrameType::Data, "ta"},
                   {FrameType::Hole, encode_length(100)},
                   entry(EntryType::Directory, "sub", "", 0500),
                   entry(EntryType::Link, "link", "../file"),
                   kLeaveFrame,
                   entry(EntryType::Fifo, "fifo", "", 0622),
                   kLeaveFrame,
                   kTreeEndFrame}),
            "");
  EXPECT_EQ(testing::content_of(inside("root/file")), "data" + std::string(100, '\0'));
  EXPECT_EQ(fs::read_symlink(inside("root/sub/link")), "../file");
  struct stat status{};
  ASSERT_EQ(::stat(inside("root/sub").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0500U) << "set once its content was there";
  EXPECT_EQ(status.st_mtim.tv_sec, 1'500'000'000);
  EXPECT_EQ(status.st_mtim.tv_nsec, 7);
  ASSERT_EQ(::stat(inside("root/fifo").c_str(), &status), 0);
  EXPECT_TRUE(S_ISFIFO(status.st_mode));
  EXPECT_EQ(status.st_mode & 07777U, 0622U) << "whatever the umask is";
  EXPECT_EQ(files(), (std::set<std::string>{"place", "place/root", "place/root/file", "place/root/sub",
                                            "place/root/sub/link", "place/root/fifo"}));
}

TEST_F(TreeReceiverTest, SetIdBitsAreTheSendersOnlyWhereItMayHaveThem) {
  for (const auto& [set_id, mode] : {std::pair{SetIdBits::Kept, 06711U}, {SetIdBits::Cleared, 0711U}}) {
    EXPECT_EQ(taken({entry(EntryType::File, "", "", 06711), kTreeEndFrame}, set_id), "");
    struct stat status{};
    ASSERT_EQ(::stat(inside("root").c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777U, mode);
  }
}

TEST_F(TreeReceiverTest, ReplacesNamesAndFollowsNone) {
  const std::string victim = testing::make_file(scratch_.file("victim"), "untouched");
  fs::create_symlink(victim, inside("root"));
  EXPECT_EQ(taken({entry(EntryType::File, ""), {FrameType::Data, "new"}, kTreeEndFrame}), "");
  EXPECT_EQ(testing::content_of(victim), "untouched");
  EXPECT_EQ(testing::content_of(inside("root")), "new");
  fs::remove(inside("root"));

  const std::string outside = scratch_.file("outside");
  fs::create_directory(outside);
  fs::create_directory_symlink(outside, inside("root"));
  EXPECT_TRUE(
      taken({kRootEntry, entry(EntryType::File, "file"), kLeaveFrame, kTreeEndFrame}).contains("is no directory"));
  EXPECT_TRUE(fs::is_empty(outside));
  fs::remove(inside("root"));

  // The same where the link is of the tree itself.
  EXPECT_TRUE(taken({kRootEntry, entry(EntryType::Link, "way", outside), entry(EntryType::Directory, "way"),
                     entry(EntryType::File, "file")})
                  .contains("way is there and is no directory"));
  EXPECT_TRUE(fs::is_empty(outside));
}

TEST_F(TreeReceiverTest, TakesNothingOutOfItsPlace) {
  const std::pair<FrameType, std::string> data{FrameType::Data, "data"};
  const auto file = entry(EntryType::File, "file");
  using Frames = std::vector<std::pair<FrameType, std::string>>;
  for (const auto& [frames, said] : {
           std::pair{Frames{data}, "belong to no file"},
           {{{FrameType::Hole, encode_length(1)}}, "belongs to no file"},
           {{kRootEntry, data}, "belong to no file"},
           {{kRootEntry, entry(EntryType::Link, "l", "t"), data}, "belong to no file"},
           {{kLeaveFrame}, "not in"},
           {{kRootEntry, kLeaveFrame, kLeaveFrame}, "not in"},
           {{kRootEntry, kLeaveFrame, file}, "where none belongs"},
           {{file}, "where none belongs"},
           {{kRootEntry, kRootEntry}, "where none belongs"},
           {{kRootEntry, kTreeEndFrame}, "has no end"},
           {{kRootEntry, {FrameType::Exit, ""}}, "belongs to no tree"},
           {{{FrameType::Refused, encode(Refusal{.sentence = "not today"})}}, "not today"},
           {{entry(EntryType::File, ""), {FrameType::Hole, encode_length(~std::uint64_t{0})}}, "is too large"},
           {{entry(EntryType::File, ""), {FrameType::Hole, encode_length((std::uint64_t{1} << 63) - 1)}, data},
            "is too large"},
       })
    EXPECT_TRUE(taken(frames).contains(said)) << taken(frames) << ", not: " << said;
}

TEST_F(TreeReceiverTest, AHugeHoleIsAnErrorAndLeavesNothing) {
  const std::uint64_t huge = (std::uint64_t{1} << 63) - 1;
  EXPECT_TRUE(taken({entry(EntryType::File, ""), {FrameType::Hole, encode_length(huge)}, kTreeEndFrame})
                  .contains("cannot write"));
  EXPECT_EQ(files(), (std::set<std::string>{"place"}));
}

TEST_F(TreeReceiverTest, WhatIsNotWholeIsRemoved) {
  EXPECT_EQ(taken({kRootEntry, entry(EntryType::File, "half"), {FrameType::Data, "half"}}), "the tree has no end");
  EXPECT_EQ(files(), (std::set<std::string>{"place", "place/root"}));
}

TEST_F(TreeReceiverTest, DepthHasALimitAndCostsNoDescriptorsAfterwards) {
  const std::size_t before = testing::open_descriptors();
  std::vector frames = {kRootEntry};
  for (std::size_t depth = 1; depth < kDeepestTree; ++depth) frames.push_back(entry(EntryType::Directory, "d"));
  EXPECT_EQ(taken(frames), "the tree has no end");
  frames.push_back(entry(EntryType::Directory, "d"));
  EXPECT_TRUE(taken(frames).contains("is deeper than 256 directories"));
  EXPECT_EQ(testing::open_descriptors(), before);
}

TEST_F(TreeReceiverTest, ADirectoryThatMustBeThereIsNoFile) {
  TreeReceiver receiver{find_destination(inside("none/"), "name").value(), SetIdBits::Cleared, hooks_};
  const auto [type, payload] = entry(EntryType::File, "");
  EXPECT_EQ(receiver.take({.type = type, .payload = payload}).error().message,
            "there is no directory none; make it first");
}

/// Sends a tree to a receiver, over a socket.
std::string copied(const std::string& source, const std::string& destination, const TreeHooks& sending = {}) {
  std::array<int, 2> ends{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  FrameStream sender{OwnedFd{ends[0]}};
  FrameStream receiver{OwnedFd{ends[1]}};
  std::string said;
  std::thread other{[&] {
    const auto found = find_source(source);
    Status sent = found ? send_tree(sender, *found, sending) : std::unexpected(found.error());
    if (!sent) (void)sender.send(FrameType::Refused, encode(Refusal{.sentence = sent.error().message}));
  }};
  auto place = find_destination(destination, name_of_source(source));
  const auto counts = receive_tree(receiver, std::move(place.value()), SetIdBits::Kept, {});
  other.join();
  return counts ? "" : counts.error().message;
}

TEST(Tree, IsTheSameAtTheOtherEnd) {
  const testing::ScratchDirectory scratch;
  fs::create_directories(scratch.file("tree/a/b"));
  const std::string large(300'000, 'l');
  testing::make_file(scratch.file("tree/large"), large);
  testing::make_file(scratch.file("tree/a/empty"), "");
  fs::create_symlink("nowhere", scratch.file("tree/a/b/link"));
  EXPECT_EQ(copied(scratch.file("tree"), scratch.file("copy")), "");
  EXPECT_EQ(testing::content_of(scratch.file("copy/large")), large);
  EXPECT_EQ(testing::content_of(scratch.file("copy/a/empty")), "");
  EXPECT_EQ(fs::read_symlink(scratch.file("copy/a/b/link")), "nowhere");
  EXPECT_EQ(copied(scratch.file("tree/."), scratch.file("copy/a")), "");
  EXPECT_EQ(testing::content_of(scratch.file("copy/a/large")), large) << "the content alone";
  EXPECT_EQ(copied(scratch.file("tree/large"), scratch.file("copy/a/b")), "");
  EXPECT_EQ(testing::content_of(scratch.file("copy/a/b/large")), large) << "into a directory";
  EXPECT_TRUE(copied(scratch.file("none"), scratch.file("copy")).contains("cannot look at none"));
}

TEST(Tree, HolesStayHoles) {
  const testing::ScratchDirectory scratch;
  const std::string path = testing::make_file(scratch.file("holes"), "begin");
  ASSERT_EQ(::truncate(path.c_str(), 1 << 30), 0);
  EXPECT_EQ(copied(path, scratch.file("copy")), "");
  struct stat status{};
  ASSERT_EQ(::stat(scratch.file("copy").c_str(), &status), 0);
  EXPECT_EQ(status.st_size, 1 << 30);
  EXPECT_LT(status.st_blocks, 1000);
}

TEST(Tree, FilesOfProcHaveContentWithoutASize) {
  const testing::ScratchDirectory scratch;
  EXPECT_EQ(copied("/proc/sys/kernel/ostype", scratch.file("copy")), "");
  EXPECT_EQ(testing::content_of(scratch.file("copy")), "Linux\n");
}

TEST(Tree, MayChangeWhileItIsCopied) {
  const testing::ScratchDirectory scratch;
  const std::string source = scratch.file("source");
  fs::create_directory(source);
  for (const char* name : {"a", "b", "c"}) testing::make_file(source + '/' + name, name);
  std::vector<std::string> notes;
  int pieces = 0;
  TreeHooks hooks;
  hooks.note = [&notes](std::string_view sentence) { notes.emplace_back(sentence); };
  hooks.check = [&]() -> Status {  // after the directory, and after the first of its names
    if (++pieces == 2)
      for (const char* name : {"a", "b", "c"}) fs::remove(source + '/' + name);
    return {};
  };
  EXPECT_EQ(copied(source, scratch.file("copy"), hooks), "");
  ASSERT_EQ(notes.size(), 2U);
  for (const std::string& each : notes) EXPECT_TRUE(each.ends_with(" has vanished, and is left out")) << each;
  EXPECT_EQ(std::distance(fs::directory_iterator{scratch.file("copy")}, {}), 1);
}

TEST(Tree, ASenderIsEndedByItsCheck) {
  const testing::ScratchDirectory scratch;
  const std::string path = testing::make_file(scratch.file("file"), std::string(1'000'000, 'x'));
  int pieces = 0;
  TreeHooks hooks;
  hooks.check = [&pieces]() -> Status {
    if (++pieces < 3) return {};
    return fail(ErrorKind::State, "enough");
  };
  EXPECT_EQ(copied(path, scratch.file("copy"), hooks), "enough");
  EXPECT_FALSE(fs::exists(scratch.file("copy")));
}

TEST(Tree, SourcesAndDestinationsAreNamedAsByCp) {
  const testing::ScratchDirectory scratch;
  fs::create_directory(scratch.file("directory"));
  const std::string directory = scratch.file("directory");
  EXPECT_EQ(name_of_source("/"), "");
  EXPECT_EQ(name_of_source("/."), "");
  EXPECT_EQ(name_of_source("/a/b"), "b");
  EXPECT_EQ(name_of_source("/a/b//"), "b");
  EXPECT_EQ(name_of_source("/a/b/."), "");
  EXPECT_EQ(name_of_source("a"), "a");
  EXPECT_EQ(find_source(directory).value().name, "directory");
  EXPECT_EQ(find_source(directory + "/").value().name, ".");
  EXPECT_FALSE(find_source(scratch.file("none/")).has_value());
  const auto place_of = [](const std::string& path, const std::string& name) {
    const auto place = find_destination(path, name);
    return place ? place->name + (place->must_be_dir ? "/" : "") : "none";
  };
  EXPECT_EQ(place_of(directory, "f"), "f");
  EXPECT_EQ(place_of(directory, ""), "");
  EXPECT_EQ(place_of(directory + "/new", "f"), "new");
  EXPECT_EQ(place_of(directory + "/new/", "f"), "new/");
  EXPECT_EQ(place_of(directory + "/new", ""), "new/") << "content needs a directory";
  EXPECT_EQ(place_of(scratch.file("none/new"), "f"), "none");
}

}  // namespace
}  // namespace mayfly::agent
