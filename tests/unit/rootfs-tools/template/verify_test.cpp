#include "rootfs-tools/template/verify.h"

#include "rootfs-tools/clones/template_file.h"
#include "rootfs-tools/image/digest.h"
#include "rootfs-tools/template/file_digest.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

using mayfly::testing::ScratchDirectory;

OwnedFd open_to_read(const std::string& path) { return OwnedFd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)}; }

std::string digest_at(const std::string& path, FileKind kind) {
  const OwnedFd file = open_to_read(path);
  return digest_of_file(file.get(), std::filesystem::file_size(path), kind, path).value_or("none");
}

TEST(FileDigest, OfAPlainFileIsThatOfItsBytes) {
  const ScratchDirectory scratch;
  std::string content(200'001, 'a');
  content.back() = 'b';
  EXPECT_EQ(digest_at(testing::make_file(scratch.file("f"), content), FileKind::Plain), digest_of(content));
}

TEST(FileDigest, OfASparseFileIsTheSameWhetherZerosAreAHoleOrNot) {
  const ScratchDirectory scratch;
  std::string content(std::size_t{1} << 20, '\0');
  content.replace(300'000, 3, "abc");
  content.replace(content.size() - 1, 1, "z");
  content += "odd";
  const std::string full = testing::make_file(scratch.file("full"), content);
  const std::string holes = testing::make_file(scratch.file("holes"), "");
  {
    const OwnedFd file{::open(holes.c_str(), O_WRONLY | O_CLOEXEC)};
    ASSERT_EQ(::pwrite(file.get(), "abc", 3, 300'000), 3);
    ASSERT_EQ(::pwrite(file.get(), "zodd", 4, (1 << 20) - 1), 4);
  }
  const std::string digest = digest_at(full, FileKind::Sparse);
  EXPECT_TRUE(digest.starts_with(kSparseDigest)) << digest;
  EXPECT_EQ(digest_at(holes, FileKind::Sparse), digest);
  // By the description in file_digest.h, made here anew.
  std::string wanted;
  for (const std::uint64_t block : {4U, 15U, 16U}) {
    wanted.append(1, static_cast<char>(block)).append(7, '\0');
    wanted += content.substr(block << 16, 1 << 16);
  }
  EXPECT_EQ(digest, "sparse-" + digest_of(wanted));
  // The same bytes elsewhere are another file.
  content.replace(300'000, 3, std::string(3, '\0'));
  content.replace(300'000 + (1 << 16), 3, "abc");
  EXPECT_NE(digest_at(testing::make_file(full, content), FileKind::Sparse), digest);
}

TEST(FileDigest, AFileThatIsShorterIsAnError) {
  const ScratchDirectory scratch;
  const OwnedFd file = open_to_read(testing::make_file(scratch.file("f"), "short"));
  EXPECT_FALSE(digest_of_file(file.get(), 100, FileKind::Plain, "f"));
}

class VerifyTest : public ::testing::Test {
 protected:
  VerifyTest() {
    using namespace clones;
    Template made{.directory = directory_, .image = "sha256:1", .files = {}};
    for (const char* name : {kBaseName, kLayerName, kStateName, kMemoryName, kWorkingSetName, kRunName}) {
      std::string content(100'000, '\0');
      content.replace(70'000, 4, name, 4);
      testing::make_file(path(name), content);
      const bool sparse = name == kLayerName || name == kMemoryName;
      made.files.push_back({.name = name,
                            .size = content.size(),
                            .digest = digest_at(path(name), sparse ? FileKind::Sparse : FileKind::Plain)});
    }
    write_manifest(made);
    made_ = made;
  }
  [[nodiscard]] std::string path(std::string_view name) const { return directory_ + "/" + std::string{name}; }
  void write_manifest(const clones::Template& made) const {
    testing::make_file(path(clones::kTemplateFile), with_own_digest(clones::to_json(made)));
  }
  [[nodiscard]] std::string refusal() const {
    const auto verified = verify_template({.directory = directory_});
    return verified ? "" : verified.error().message;
  }

  ScratchDirectory scratch_;
  std::string directory_ = std::filesystem::path{scratch_.file("x")}.parent_path();
  clones::Template made_;
};

TEST_F(VerifyTest, ATemplateAsItWasBuiltIsGood) {
  std::uint64_t last = 0;
  const auto verified = verify_template(
      {.directory = directory_, .on_progress = [&](std::string_view, std::uint64_t done, std::uint64_t total) {
         EXPECT_EQ(total, 600'000U);
         last = done;
       }});
  ASSERT_TRUE(verified) << verified.error().message;
  EXPECT_EQ(verified->files, 6U);
  EXPECT_EQ(last, 600'000U);
  EXPECT_TRUE(clones::read_template(directory_)) << "mayfly up reads it as well";
}

TEST_F(VerifyTest, AByteThatDiffersNamesItsFile) {
  for (const clones::TemplateFile& file : made_.files)
    for (const std::size_t at : {std::size_t{0}, std::size_t{70'001}, std::size_t{99'999}}) {
      const std::string good = testing::content_of(path(file.name));
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ 1);
      testing::make_file(path(file.name), bad);
      const std::string said = refusal();
      EXPECT_TRUE(said.starts_with(path(file.name) + " has changed: its digest is ")) << said;
      EXPECT_TRUE(said.contains("template.json says " + file.digest.substr(0, 20))) << said;
      EXPECT_TRUE(said.ends_with("copy it again from where it was built, or build the template again")) << said;
      testing::make_file(path(file.name), good);
    }
  EXPECT_EQ(refusal(), "");
}

TEST_F(VerifyTest, AByteOfTheDescriptionThatDiffersIsFound) {
  const std::string manifest = path(clones::kTemplateFile);
  const std::string good = testing::content_of(manifest);
  for (std::size_t at = 0; at < good.size(); ++at) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    testing::make_file(manifest, bad);
    EXPECT_TRUE(refusal().starts_with(manifest + " has ")) << "byte " << at << ": " << refusal();
  }
}

TEST_F(VerifyTest, AFileWithoutADigestIsOfAnOlderMayfly) {
  clones::Template older = made_;
  older.files.back().digest.clear();
  write_manifest(older);
  EXPECT_EQ(refusal(), path(clones::kRunName) +
                           " has no digest in template.json: an older Mayfly has built the template; build it again");
  testing::make_file(path(clones::kTemplateFile), clones::to_json(made_));
  EXPECT_TRUE(refusal().contains("has no digest of its own at its end")) << refusal();
}

TEST_F(VerifyTest, AFileThatIsCutOffOrMissingIsNamed) {
  ASSERT_EQ(::truncate(path("memory").c_str(), 5), 0);
  EXPECT_TRUE(refusal().starts_with(path("memory") + " has 5 bytes")) << refusal();
  std::filesystem::remove(path("memory"));
  EXPECT_TRUE(refusal().starts_with(path("memory") + " cannot be looked at")) << refusal();
}

}  // namespace
}  // namespace mayfly::image
