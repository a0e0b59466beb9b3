#include "rootfs-tools/image/layer.h"

#include "tests/support/child_process.h"
#include "tests/unit/rootfs-tools/image/archives.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

using mayfly::testing::ScratchDirectory;

class LayerTest : public ::testing::Test {
 protected:
  Status apply(const std::string& tar, std::size_t piece = 1000) {
    TextSource source{tar, piece};
    return apply_layer(source, tree_, spool_, budget_, [] {});
  }
  void must_apply(const std::string& tar) {
    const auto done = apply(tar);
    ASSERT_TRUE(done) << done.error().message;
  }
  std::string refusal(const std::string& tar) {
    const auto done = apply(tar);
    return done ? "" : done.error().message;
  }
  std::string content(std::string_view path) {
    const Inode* const inode = tree_.find(path);
    if (inode == nullptr) return "(nothing)";
    std::string text(inode->data.size, '?');
    EXPECT_TRUE(spool_.read(inode->data, 0, std::as_writable_bytes(std::span{text})));
    return text;
  }
  const Inode& at(std::string_view path) {
    const Inode* const inode = tree_.find(path);
    if (inode == nullptr) throw std::runtime_error{"nothing at " + std::string{path}};
    return *inode;
  }

  ScratchDirectory scratch_;
  FileTree tree_{ImageLimits{}};
  Spool spool_ = std::move(Spool::create(scratch_.file("."))).value();
  LayerBudget budget_{.data_bytes = std::uint64_t{1} << 40};
};

class LayerOfDialect : public LayerTest, public ::testing::WithParamInterface<const char*> {};

TEST_P(LayerOfDialect, HasWhatItsMakerPutThere) {
  const std::string is_long(150, 'n');
  TarBuilder tar{GetParam()};
  tar.directory("bin", {.mode = 01755, .uid = 3, .gid = 4, .modified_s = 1'000'000'000});
  tar.file("bin/tool", "content", {.mode = 04755, .uid = 1000, .gid = 100});
  tar.file("bin/empty", "");
  tar.file("bin/" + is_long, std::string(100'000, 'x'));
  tar.symlink("tool", "bin/tool");
  tar.symlink("long", is_long);
  tar.hard_link("bin/again", "bin/tool");
  tar.device("null", false, 1, 3);
  tar.device("disk", true, 259, 200'000);
  tar.fifo("pipe");
  must_apply(tar.finish());

  EXPECT_EQ(at("bin").mode, 01755);
  EXPECT_EQ(at("bin").uid, 3U);
  EXPECT_EQ(at("bin").gid, 4U);
  EXPECT_EQ(at("bin").modified_s, 1'000'000'000);
  EXPECT_EQ(at("bin/tool").mode, 04755);
  EXPECT_EQ(at("bin/tool").uid, 1000U);
  EXPECT_EQ(content("tool"), "content");
  EXPECT_EQ(content("bin/empty"), "");
  EXPECT_EQ(content("bin/" + is_long), std::string(100'000, 'x'));
  EXPECT_EQ(tree_.root().children.at("long").inode->target, is_long);
  EXPECT_EQ(&at("bin/again"), &at("bin/tool"));
  EXPECT_EQ(at("null").kind, InodeKind::CharacterDevice);
  EXPECT_EQ(at("null").device_minor, 3U);
  EXPECT_EQ(at("disk").kind, InodeKind::BlockDevice);
  EXPECT_EQ(at("disk").device_major, 259U);
  EXPECT_EQ(at("disk").device_minor, 200'000U);
  EXPECT_EQ(at("pipe").kind, InodeKind::Fifo);
}

INSTANTIATE_TEST_SUITE_P(Dialects, LayerOfDialect, ::testing::Values("pax", "gnutar"));

TEST_F(LayerTest, NamesAreTheArchivesBytes) {
  const std::string decomposed = "e\xCC\x81";  // which a normalization would make "é", another name
  const std::string composed = "\xC3\xA9";
  const std::string latin1 = "l\xE4t";
  const std::string tail(120, 'x');
  must_apply(pax_header({{"path", decomposed}}) + raw_header("a", '0', 1) + padded("1") +
             pax_header({{"path", composed}}) + raw_header("b", '0', 1) + padded("2") +
             pax_header({{"path", latin1 + tail}}) + raw_header("c", '0', 1) + padded("3") +
             raw_header(latin1, '0', 1) + padded("4") + pax_header({{"linkpath", decomposed}}) +
             raw_header("s", '2', 0, "x"));
  EXPECT_EQ(content(decomposed), "1");
  EXPECT_EQ(content(composed), "2");
  EXPECT_EQ(content(latin1 + tail), "3");
  EXPECT_EQ(content(latin1), "4");
  EXPECT_EQ(tree_.root().children.at("s").inode->target, decomposed);
}

TEST_F(LayerTest, HolesStayHoles) {
  const std::string piece(8192, 'd');
  must_apply(TarBuilder{}.sparse("holes", 1 << 20, 512 << 10, piece).finish());
  const Inode& file = at("holes");
  EXPECT_EQ(file.data.size, 1U << 20);
  EXPECT_EQ(spool_.next_data(file.data, 0), 512U << 10);
  EXPECT_EQ(spool_.next_data(file.data, (512 << 10) + piece.size()), file.data.size);
  EXPECT_TRUE(content("holes") == std::string(512 << 10, '\0') + piece + std::string((512 << 10) - piece.size(), '\0'));
}

/// The oldest way of GNU tar: the map is in the header.
TEST_F(LayerTest, ReadsSparseFilesOfOldGnuTar) {
  std::string header = raw_header("old", 'S', 4);
  header.replace(257, 7, "ustar  ");
  header[264] = '\0';
  header.replace(386, 11, "00000100000");  // offset 32768
  header.replace(398, 11, "00000000004");  // and 4 bytes
  header.replace(410, 11, "00000200000");  // the end, at 65536, and no bytes
  header.replace(422, 11, "00000000000");
  header.replace(483, 11, "00000200000");  // the size
  header.replace(148, 8, "        ");
  unsigned sum = 0;
  for (const char each : header) sum += static_cast<unsigned char>(each);
  header.replace(148, 6, fmt::format("{:06o}", sum));
  header[154] = '\0';
  must_apply(header + padded("data"));
  EXPECT_TRUE(content("old") == std::string(32768, '\0') + "data" + std::string(32764, '\0'));
}

TEST_F(LayerTest, HasExtendedAttributesInOrder) {
  must_apply(TarBuilder{}
                 .file("f", "", {.attributes = {{"user.z", std::string{"a\0b", 3}}, {"security.capability", "\x01"}}})
                 .finish());
  const auto& attributes = at("f").attributes;
  ASSERT_EQ(attributes.size(), 2U);
  EXPECT_EQ(attributes[0].name, "security.capability");
  EXPECT_EQ(attributes[1].name, "user.z");
  EXPECT_EQ(attributes[1].value, (std::string{"a\0b", 3}));
}

TEST_F(LayerTest, LeavesOutAttributesOfHostsAndThoseThatASquashfsCannotHave) {
  must_apply(pax_header({{"SCHILY.xattr.security.selinux", "label"},
                         {"SCHILY.xattr.system.posix_acl_access", "acl"},
                         {"SCHILY.xattr.user.empty", ""},
                         {"SCHILY.xattr.user.kept", "yes"}}) +
             raw_header("f", '0', 0));
  ASSERT_EQ(at("f").attributes.size(), 1U);
  EXPECT_EQ(at("f").attributes[0].name, "user.kept");
  EXPECT_EQ(budget_.left_out_attributes, std::set<std::string>{"system.posix_acl_access"});
}

TEST_F(LayerTest, KeepsFewNamesOfAttributesThatAreLeftOut) {
  std::vector<std::pair<std::string, std::string>> records;
  for (int number = 0; number < 1000; ++number)
    records.emplace_back("SCHILY.xattr.system." + std::to_string(number), "1");
  must_apply(pax_header(records) + raw_header("f", '0', 0));
  EXPECT_EQ(budget_.left_out_attributes.size(), 100U);
}

TEST_F(LayerTest, WhiteoutsAreNamesOfAnyEntry) {
  must_apply(TarBuilder{}.file("d/a", "").file("d/b", "").file("e/c", "").finish());
  must_apply(TarBuilder{}.file("d/.wh.a", "").file("e/.wh..wh..opq", "").file("e/new", "").finish());
  EXPECT_EQ(tree_.find("d/a"), nullptr);
  EXPECT_NE(tree_.find("d/b"), nullptr);
  EXPECT_EQ(tree_.find("e/c"), nullptr);
  EXPECT_NE(tree_.find("e/new"), nullptr);
  EXPECT_EQ(tree_.find("d/.wh.a"), nullptr);
}

TEST_F(LayerTest, RefusesWhiteoutsOfNoFile) {
  for (const char* const name : {"d/.wh.", "d/.wh..", "d/.wh..."})
    EXPECT_EQ(refusal(TarBuilder{}.file(name, "").finish()),
              std::string{name} + ": this whiteout names no file; build the image anew");
}

TEST_F(LayerTest, RefusalsNameTheEntry) {
  EXPECT_EQ(refusal(TarBuilder{}.file("../../etc/passwd", "x").finish()),
            "../../etc/passwd: the path '../../etc/passwd' leads out of the image; do not use this image, which may be "
            "an attack");
  EXPECT_EQ(refusal(TarBuilder{}.hard_link("l", "/none").finish()),
            "l: it is a hard link to '/none', which is not there; build the image anew");
  EXPECT_EQ(refusal(TarBuilder{}.device("d", true, 4096, 0).finish()),
            "d: there is no device 4096:0; the largest is 4095:1048575");
  EXPECT_EQ(refusal(TarBuilder{}.file("f", "", {.uid = 0xFFFFFFFF}).finish()),
            "f: its uid 4294967295 must be from 0 to 4294967294; build the image anew");
  EXPECT_EQ(refusal(pax_header({{"gid", "99999999999"}}) + raw_header("g", '0', 0)),
            "g: its gid 99999999999 must be from 0 to 4294967294; build the image anew");
  EXPECT_EQ(refusal(TarBuilder{}.symlink("s", std::string(4096, 't')).finish()),
            "s: it is a symbolic link of 4096 bytes, which must be 1 to 4095");
  EXPECT_TRUE(refusal(pax_header({{"SCHILY.xattr.user." + std::string(251, 'n'), "v"}}) + raw_header("x", '0', 0))
                  .ends_with("has a name of 256 and a value of 1 bytes; Linux takes 255 and 65536"));
}

TEST_F(LayerTest, RefusesMoreDataThanIsLeft) {
  budget_.data_bytes = 10;
  must_apply(TarBuilder{}.file("a", "12345").finish());
  EXPECT_EQ(refusal(TarBuilder{}.file("b", "123456").finish()),
            "b: it has 6 bytes, and 5 are left; --max-size raises the limit");
  // A hole is no data on disk, and yet a file as large to whoever reads it.
  EXPECT_EQ(refusal(pax_header({{"GNU.sparse.major", "1"},
                                {"GNU.sparse.minor", "0"},
                                {"GNU.sparse.name", "big"},
                                {"GNU.sparse.realsize", "4611686018427387904"}}) +
                    raw_header("p", '0', 512) + padded("0\n")),
            "big: it has 4611686018427387904 bytes, and 5 are left; --max-size raises the limit");
}

TEST_F(LayerTest, RefusesWhatIsNoWholeArchive) {
  const std::string tar = TarBuilder{}.file("first", "1").file("second", std::string(5000, '2')).finish();
  EXPECT_TRUE(refusal(tar.substr(0, 3000)).starts_with("second: it is no whole tar archive (Truncated"));
  EXPECT_TRUE(refusal(std::string(3000, 'z')).starts_with("it is no whole tar archive (Unrecognized archive format)"));
  EXPECT_TRUE(refusal(raw_header("ok", '0', 0) + std::string(512, 'z')).starts_with("after ok: it is no whole tar"));
  EXPECT_EQ(refusal(raw_header("a", '0', 600) + std::string(600, 'a').substr(0, 590)),
            "a: the archive ends within its data; copy or fetch the image again");
}

/// As umoci's insert writes layers: no end, nor the rest of the last block.
TEST_F(LayerTest, TakesAnArchiveThatEndsWithItsLastByte) {
  for (const std::size_t piece : {std::size_t{1}, std::size_t{100}, std::size_t{4096}}) {
    const auto done = apply(raw_header("a", '0', 600) + std::string(600, 'a'), piece);
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_EQ(content("a"), std::string(600, 'a'));
  }
  must_apply(raw_header("b", '0', 0));
  EXPECT_NE(tree_.find("b"), nullptr);
}

TEST_F(LayerTest, MayHaveNothing) {
  must_apply("");
  must_apply(std::string(1024, '\0'));
  EXPECT_TRUE(tree_.root().children.empty());
}

TEST_F(LayerTest, SaysWhatItsSourceSays) {
  class Broken final : public ByteSource {
   public:
    Result<std::span<const std::byte>> next() override { return fail(ErrorKind::System, "the disk is gone"); }
  } broken;
  const auto done = apply_layer(broken, tree_, spool_, budget_, [] {});
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().message, "the disk is gone");
}

}  // namespace
}  // namespace mayfly::image
