#include "rootfs-tools/image/base.h"

#include "rootfs-tools/image/digest.h"
#include "rootfs-tools/image/output_file.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/rootfs-tools/image/archives.h"
#include "vmm/base/files.h"
#include "vmm/base/json_value.h"

#include <sys/stat.h>

#include <filesystem>
#include <string>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

namespace fs = std::filesystem;
using mayfly::testing::content_of;
using mayfly::testing::make_file;
using Names = std::vector<std::string>;

class BaseTest : public ::testing::Test {
 protected:
  BaseTest() {
    const std::string first = TarBuilder{}.file("etc/passwd", "www:x:33:33::/:\n").file("old", "1").finish();
    const std::string second = TarBuilder{}.file(".wh.old", "").file("new", "2").finish();
    image_ = {.layers = {{.tar = first, .packed = gzip(first)}, {.tar = second, .packed = zstd(second)}},
              .config = R"("config":{"User":"www"})"};
  }

  BaseOrder order() {
    return {.image = path_,
            .platform = {"linux", "amd64"},
            .output = scratch_.file("base"),
            .config = scratch_.file("config")};
  }
  void make_layout() {
    Files files;
    add_index(files, {add_image(files, image_) + "}"});
    make_file(path_, tar_of(files));
  }
  std::string refusal(const BaseOrder& order) {
    const auto facts = make_base(order);
    return facts ? "" : facts.error().message;
  }

  mayfly::testing::ScratchDirectory scratch_;
  std::string path_ = scratch_.file("app.tar");
  MadeImage image_;
};

TEST_F(BaseTest, IsTheSameOfEachKindOfImage) {
  make_layout();
  const auto facts = make_base(order());
  ASSERT_TRUE(facts) << facts.error().message;
  const std::string base = content_of(scratch_.file("base"));
  EXPECT_EQ(facts->base_digest, digest_of(base));
  EXPECT_EQ(facts->base_bytes, base.size());
  EXPECT_EQ(facts->inodes, 4U) << "root, etc, etc/passwd, new";
  const std::string config = content_of(scratch_.file("config"));
  EXPECT_TRUE(config.contains(facts->base_digest));
  EXPECT_TRUE(config.contains(facts->image_digest));
  EXPECT_TRUE(config.contains(R"("uid":33)"));
  struct stat status{};
  ASSERT_EQ(::stat(scratch_.file("base").c_str(), &status), 0);
  const mode_t mask = ::umask(0);
  ::umask(mask);
  EXPECT_EQ(status.st_mode & 0777U, 0644U & ~mask);

  Files saved;
  add_saved(saved, image_, "app:1");
  make_file(path_, tar_of(saved));
  ASSERT_TRUE(make_base(order()));
  EXPECT_TRUE(content_of(scratch_.file("base")) == base) << "the second one replaced the first";
  write_files(saved, scratch_.file("directory"));
  BaseOrder of_directory = order();
  of_directory.image = scratch_.file("directory");
  ASSERT_TRUE(make_base(of_directory));
  EXPECT_TRUE(content_of(scratch_.file("base")) == base);
  EXPECT_EQ(names_in(scratch_.file(".")), (Names{"app.tar", "base", "config", "directory"}));
}

TEST_F(BaseTest, VerifiesEachLayerAndLeavesNothing) {
  Files files;
  add_index(files, {add_image(files, image_) + "}"});
  const std::string packed = image_.layers[1].packed;
  Files changed = files;
  // One byte of the archive's end, which nobody reads.
  std::string other_tar = image_.layers[1].tar;
  other_tar.back() = 'x';
  changed[blob_name(digest_of(packed))] = packed.substr(0, packed.size() - 1) + "x";
  make_file(path_, tar_of(changed));
  EXPECT_TRUE(
      refusal(order()).starts_with("--image " + path_ + ": layer 2 of 2 (" + short_digest(digest_of(packed)) + "): "))
      << refusal(order());
  EXPECT_EQ(names_in(scratch_.file(".")), Names{"app.tar"});

  // Without a digest of the blob, its diff_id counts.
  Files saved;
  add_saved(saved, image_, "app:1");
  saved[digest_of(image_.layers[1].tar).substr(7) + "/layer.tar"] = other_tar;
  make_file(path_, tar_of(saved));
  EXPECT_EQ(refusal(order()), "--image " + path_ + ": layer 2 of 2 (" + short_digest(digest_of(image_.layers[1].tar)) +
                                  "): it unpacks to " + digest_of(other_tar) + ", and its diff_id is " +
                                  digest_of(image_.layers[1].tar) + "; copy or fetch the image again");
  EXPECT_EQ(names_in(scratch_.file(".")), Names{"app.tar"});
}

TEST_F(BaseTest, ALayerOfAnotherDigestIsRefused) {
  Files files;
  add_index(files, {add_image(files, image_) + "}"});
  // The same archive, packed otherwise, in as many bytes.
  std::string packed = image_.layers[0].packed;
  packed[9] = packed[9] == 3 ? 7 : 3;  // the system that gzip names
  files[blob_name(digest_of(image_.layers[0].packed))] = packed;
  make_file(path_, tar_of(files));
  EXPECT_EQ(refusal(order()), "--image " + path_ + ": layer 1 of 2 (" +
                                  short_digest(digest_of(image_.layers[0].packed)) + "): its digest is " +
                                  digest_of(packed) + "; copy or fetch the image again");
}

TEST_F(BaseTest, AWrongConfigurationLeavesNothing) {
  image_.config = R"("config":{"User":"none"})";
  make_layout();
  EXPECT_TRUE(refusal(order()).contains("the user 'none' is not in the image's /etc/passwd"));
  EXPECT_EQ(names_in(scratch_.file(".")), Names{"app.tar"});
}

TEST_F(BaseTest, HasTheVolumesThatNoLayerHas) {
  image_.config = R"("config":{"Volumes":{"/data/db":{},"/etc":{},"/":{}}})";
  make_layout();
  const auto facts = make_base(order());
  ASSERT_TRUE(facts) << facts.error().message;
  EXPECT_EQ(facts->inodes, 6U) << "root, etc, etc/passwd, new, data, data/db";
  image_.config = R"("config":{"Volumes":{"/new/x":{}}})";
  make_layout();
  EXPECT_EQ(refusal(order()), "--image " + path_ +
                                  ": the configuration: the volume '/new/x': something above it is no directory; "
                                  "build the image anew");
}

TEST_F(BaseTest, WhatIsThereStaysUntilTheNewOneIsWhole) {
  make_file(scratch_.file("base"), "precious");
  make_file(path_, "no image");
  EXPECT_NE(refusal(order()), "");
  EXPECT_EQ(content_of(scratch_.file("base")), "precious");
}

TEST_F(BaseTest, WritesWhatAGuestsInitNeedsWhereItIsWanted) {
  make_layout();
  BaseOrder with_run_file = order();
  with_run_file.run_file = scratch_.file("run");
  ASSERT_TRUE(make_base(with_run_file));
  const std::string run = content_of(scratch_.file("run"));
  EXPECT_TRUE(run.starts_with(std::string{"mayfly-run-1\0", 13}));
  EXPECT_TRUE(run.contains(std::string{"\0uid=33\0", 8}));
  with_run_file.run_file = with_run_file.config;
  EXPECT_EQ(refusal(with_run_file),
            "--run-file " + *with_run_file.config + " is what --config names, too; give another path");
}

TEST_F(BaseTest, OutputsMustBeFilesOfTheirOwn) {
  make_layout();
  BaseOrder same = order();
  same.output = path_;
  EXPECT_EQ(refusal(same), "--output " + path_ + " is the image itself; give another path");
  same = order();
  same.config = same.output;
  EXPECT_EQ(refusal(same), "--config " + same.output + " is what --output names, too; give another path");
  same = order();
  same.output = scratch_.file(".");
  EXPECT_EQ(refusal(same), "--output '" + same.output + "' must be the name of a file");
  same.output = scratch_.file("none/base");
  EXPECT_TRUE(refusal(same).contains("nothing can be made in " + scratch_.file("none/")));
}

TEST_F(BaseTest, SaysWhatItDoes) {
  make_layout();
  BaseOrder told = order();
  std::set<std::string> steps;
  told.on_progress = [&](std::string_view step, std::uint64_t done, std::uint64_t total) {
    steps.emplace(step);
    EXPECT_LE(done, total);
  };
  ASSERT_TRUE(make_base(told));
  EXPECT_EQ(steps, (std::set<std::string>{"Reading layers", "Writing the base"}));
}

class OutputFileTest : public ::testing::TestWithParam<bool> {};

TEST_P(OutputFileTest, IsThereWholeOrNotAtAll) {
  const mayfly::testing::ScratchDirectory scratch;
  const std::string path = scratch.file("out");
  const auto fill = [](const OutputFile& file, std::string_view text) {
    return write_all_at(file.fd(), std::as_bytes(std::span{text}), 0);
  };
  {
    auto file = OutputFile::create(path, "--output", GetParam());
    ASSERT_TRUE(file) << file.error().message;
    ASSERT_TRUE(fill(*file, "half"));
    EXPECT_EQ(names_in(scratch.file(".")), GetParam() ? Names{"out.mayfly-new"} : Names{}) << "what a kill would leave";
    const OutputFile moved{std::move(*file)};
  }
  EXPECT_EQ(names_in(scratch.file(".")), Names{});
  make_file(path, "of before");
  make_file(path + ".mayfly-new", "of a run that was killed");
  auto file = OutputFile::create(path, "--output", GetParam());
  ASSERT_TRUE(file);
  ASSERT_TRUE(fill(*file, "whole"));
  EXPECT_EQ(content_of(path), "of before");
  const auto published = file->publish();
  ASSERT_TRUE(published) << published.error().message;
  EXPECT_EQ(names_in(scratch.file(".")), Names{"out"});
  EXPECT_EQ(content_of(path), "whole");
}

TEST_P(OutputFileTest, ASecondMakerOfTheSameFileDoesNotLendItsOwn) {
  const mayfly::testing::ScratchDirectory scratch;
  const std::string path = scratch.file("out");
  auto first = OutputFile::create(path, "--output", GetParam());
  auto second = OutputFile::create(path, "--output", GetParam());
  ASSERT_TRUE(first && second);
  ASSERT_TRUE(write_all_at(first->fd(), std::as_bytes(std::span{std::string_view{"first"}}), 0));
  const auto published = first->publish();
  EXPECT_EQ(published.has_value(), !GetParam());
  EXPECT_EQ(
      published ? "" : published.error().message,
      GetParam() ? "--output " + path + " is made by another process at the same time; start one after the other" : "");
  EXPECT_EQ(fs::exists(path) ? content_of(path) : "first", "first");
  {
    const OutputFile given_up{std::move(*first)};
  }
  ASSERT_TRUE(write_all_at(second->fd(), std::as_bytes(std::span{std::string_view{"second"}}), 0));
  ASSERT_TRUE(second->publish());
  EXPECT_EQ(content_of(path), "second");
  EXPECT_EQ(names_in(scratch.file(".")), Names{"out"});
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutAName, OutputFileTest, ::testing::Bool());

}  // namespace
}  // namespace mayfly::image
