#include "rootfs-tools/image/file_tree.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

Inode a_directory(std::uint16_t mode = 0700) { return Inode{.kind = InodeKind::Directory, .mode = mode}; }
Inode a_file(std::uint32_t uid = 0) { return Inode{.kind = InodeKind::File, .mode = 0644, .uid = uid}; }
Inode a_link(std::string target) {
  return Inode{.kind = InodeKind::Symlink, .mode = 0777, .target = std::move(target)};
}

/// All paths of a tree: "name" for what is no directory, "name/" and what is in it for one.
void list_into(const Inode& directory, const std::string& above, std::vector<std::string>& paths) {
  for (const auto& [name, entry] : directory.children) {
    const bool is_directory = entry.inode->kind == InodeKind::Directory;
    const std::string path = above + name + (is_directory ? "/" : "");
    paths.push_back(path);
    if (is_directory) list_into(*entry.inode, path, paths);
  }
}

class FileTreeTest : public ::testing::Test {
 protected:
  FileTreeTest() { tree_.begin_layer(); }

  void put(std::string_view path, Inode inode) {
    const auto done = tree_.put(path, std::move(inode));
    ASSERT_TRUE(done.has_value()) << path << ": " << done.error().message;
  }
  void link(std::string_view path, std::string_view target) {
    const auto done = tree_.link(path, target);
    ASSERT_TRUE(done.has_value()) << path << ": " << done.error().message;
  }
  std::string refusal_of_put(std::string_view path, Inode inode = a_file()) {
    const auto done = tree_.put(path, std::move(inode));
    return done ? "" : done.error().message;
  }
  std::string refusal_of_link(std::string_view path, std::string_view target) {
    const auto done = tree_.link(path, target);
    return done ? "" : done.error().message;
  }
  std::vector<std::string> paths() const {
    std::vector<std::string> all;
    list_into(tree_.root(), "", all);
    return all;
  }

  FileTree tree_{ImageLimits{}};
};

using Paths = std::vector<std::string>;

TEST_F(FileTreeTest, MakesTheParentsThatNoLayerHas) {
  put("usr/bin/x", a_file());
  EXPECT_EQ(paths(), (Paths{"usr/", "usr/bin/", "usr/bin/x"}));
  const Inode* const made = tree_.find("usr/bin");
  EXPECT_EQ(made->mode, 0755);
  EXPECT_EQ(made->uid, 0U);
  EXPECT_EQ(made->modified_s, 0);
  EXPECT_EQ(tree_.root().mode, 0755);
}

TEST_F(FileTreeTest, TakesPathsInAnySpelling) {
  put("./a/", a_directory());
  put("/a//b", a_file(1));
  put("a/./c/../d", a_file(2));
  EXPECT_EQ(paths(), (Paths{"a/", "a/b", "a/d"}));
}

TEST_F(FileTreeTest, TheRootTakesMetadataAndKeepsWhatIsInIt) {
  put("a", a_file());
  put("./", a_directory(0711));
  EXPECT_EQ(tree_.root().mode, 0711);
  EXPECT_EQ(paths(), Paths{"a"});
  EXPECT_EQ(refusal_of_put("/"), "the root of the image is no directory; build the image anew");
  EXPECT_EQ(refusal_of_link(".", "a"), "the root of the image is a hard link; build the image anew");
}

TEST_F(FileTreeTest, RefusesPathsThatLeadOut) {
  for (const char* const path : {"../x", "a/../../x", "/..", "./../etc/passwd"})
    EXPECT_EQ(refusal_of_put(path), "the path '" + std::string{path} +
                                        "' leads out of the image; do not use this image, which may be an attack");
  EXPECT_EQ(refusal_of_link("a", "../../etc/shadow"),
            "the path '../../etc/shadow' leads out of the image; do not use this image, which may be an attack");
  EXPECT_EQ(paths(), Paths{});
}

TEST_F(FileTreeTest, LinksOfParentsAreResolvedWithinTheRoot) {
  put("usr/lib", a_directory());
  put("lib", a_link("usr/lib"));
  put("lib/x", a_file());
  put("usr/absolute", a_link("/usr/lib"));
  put("usr/absolute/y", a_file());
  put("out", a_link("../../../../usr/lib"));
  put("out/z", a_file());
  EXPECT_EQ(paths(), (Paths{"lib", "out", "usr/", "usr/absolute", "usr/lib/", "usr/lib/x", "usr/lib/y", "usr/lib/z"}));
}

TEST_F(FileTreeTest, TheLastNameIsNotResolved) {
  put("usr/lib", a_directory());
  put("lib", a_link("usr/lib"));
  put("lib", a_file());
  EXPECT_EQ(tree_.find("lib")->kind, InodeKind::File);
  EXPECT_EQ(paths(), (Paths{"lib", "usr/", "usr/lib/"}));
}

TEST_F(FileTreeTest, ADirectoryReplacesALinkToOne) {
  put("usr/lib/x", a_file());
  put("lib", a_link("usr/lib"));
  tree_.begin_layer();
  put("lib", a_directory());
  put("lib/y", a_file());
  EXPECT_EQ(paths(), (Paths{"lib/", "lib/y", "usr/", "usr/lib/", "usr/lib/x"}));
}

TEST_F(FileTreeTest, ADanglingParentIsMadeWhereItPoints) {
  put("lib", a_link("usr/./none/../lib"));
  put("lib/x", a_file());
  EXPECT_EQ(paths(), (Paths{"lib", "usr/", "usr/lib/", "usr/lib/x"}));
}

TEST_F(FileTreeTest, RefusesLinksInACircleAndThroughFiles) {
  put("a", a_link("b"));
  put("b", a_link("a"));
  EXPECT_TRUE(refusal_of_put("a/x").starts_with("its path goes through over 40 symbolic links"));
  put("file", a_file());
  EXPECT_EQ(refusal_of_put("file/x"), "something above it is no directory; build the image anew");
  put("to-file", a_link("file"));
  EXPECT_EQ(refusal_of_put("to-file/x"), "something above it is no directory; build the image anew");
}

TEST_F(FileTreeTest, ADirectoryOverADirectoryKeepsWhatIsInIt) {
  Inode first = a_directory(0700);
  first.attributes = {{"user.a", "1"}};
  put("d", std::move(first));
  put("d/x", a_file());
  tree_.begin_layer();
  Inode second = a_directory(0750);
  second.attributes = {{"user.b", "2"}};
  put("d", std::move(second));
  EXPECT_EQ(paths(), (Paths{"d/", "d/x"}));
  EXPECT_EQ(tree_.find("d")->mode, 0750);
  ASSERT_EQ(tree_.find("d")->attributes.size(), 1U);
  EXPECT_EQ(tree_.find("d")->attributes[0].name, "user.b");
}

TEST_F(FileTreeTest, AnotherTypeRemovesADirectory) {
  put("d/x", a_file());
  put("f", a_file());
  tree_.begin_layer();
  put("d", a_file());
  put("f", a_directory());
  put("f/y", a_file());
  EXPECT_EQ(paths(), (Paths{"d", "f/", "f/y"}));
}

TEST_F(FileTreeTest, HardLinksShareAnInode) {
  put("a", a_file(7));
  tree_.begin_layer();
  link("sub/b", "/a");
  link("c", "sub/b");
  EXPECT_EQ(tree_.find("a"), tree_.find("sub/b"));
  EXPECT_EQ(tree_.find("a"), tree_.find("c"));
  // A file that replaces one of the names leaves the others as they are.
  put("a", a_file(8));
  EXPECT_EQ(tree_.find("c")->uid, 7U);
  EXPECT_EQ(tree_.find("a")->uid, 8U);
}

TEST_F(FileTreeTest, HardLinksResolveParentsAndNotTheLastName) {
  put("usr/lib/x", a_file());
  put("lib", a_link("usr/lib"));
  put("s", a_link("usr/lib/x"));
  link("l", "lib/x");
  link("t", "s");
  EXPECT_EQ(tree_.find("l"), tree_.find("usr/lib/x"));
  EXPECT_EQ(tree_.root().children.at("t").inode->kind, InodeKind::Symlink);
  EXPECT_EQ(tree_.root().children.at("t").inode, tree_.root().children.at("s").inode);
}

TEST_F(FileTreeTest, RefusesHardLinksToNothingToDirectoriesAndToThemselves) {
  put("d/x", a_file());
  EXPECT_EQ(refusal_of_link("l", "none"), "it is a hard link to 'none', which is not there; build the image anew");
  EXPECT_EQ(refusal_of_link("l", "none/x"), "it is a hard link to 'none/x', which is not there; build the image anew");
  EXPECT_EQ(refusal_of_link("l", "/"), "it is a hard link to '/', which is not there; build the image anew");
  EXPECT_EQ(refusal_of_link("l", "d"), "it is a hard link to the directory 'd'; build the image anew");
  put("f", a_file());
  EXPECT_EQ(refusal_of_link("f", "f"), "it is a hard link to 'f', which is not there; build the image anew");
  EXPECT_EQ(refusal_of_link("d", "d/x"), "it is a hard link to 'd/x', which is not there; build the image anew");
}

TEST_F(FileTreeTest, WhiteoutsRemoveWhatLowerLayersHave) {
  put("d/x", a_file());
  put("d/y", a_file());
  put("gone/z", a_file());
  tree_.begin_layer();
  ASSERT_TRUE(tree_.white_out("d/x"));
  ASSERT_TRUE(tree_.white_out("gone"));
  ASSERT_TRUE(tree_.white_out("never/was"));
  ASSERT_TRUE(tree_.white_out("d/y/below-a-file"));
  EXPECT_EQ(paths(), (Paths{"d/", "d/y"}));
}

TEST_F(FileTreeTest, WhiteoutsLeaveTheirOwnLayerWhicheverComesFirst) {
  put("d/old", a_file());
  put("d/sub/old", a_file());
  tree_.begin_layer();
  put("d/new", a_file());
  put("d/sub/new", a_file());
  ASSERT_TRUE(tree_.white_out("d"));
  ASSERT_TRUE(tree_.white_out("d/new"));
  EXPECT_EQ(paths(), (Paths{"d/", "d/new", "d/sub/", "d/sub/new"}));
}

TEST_F(FileTreeTest, WhiteoutsGoThroughLinksOfParentsOnly) {
  put("usr/lib/x", a_file());
  put("lib", a_link("usr/lib"));
  tree_.begin_layer();
  ASSERT_TRUE(tree_.white_out("lib/x"));
  EXPECT_EQ(paths(), (Paths{"lib", "usr/", "usr/lib/"}));
  ASSERT_TRUE(tree_.white_out("lib"));
  EXPECT_EQ(paths(), (Paths{"usr/", "usr/lib/"}));
}

TEST_F(FileTreeTest, AnOpaqueDirectoryKeepsItselfAndItsOwnLayer) {
  put("d", a_directory(0711));
  put("d/old/deep", a_file());
  tree_.begin_layer();
  put("d/new", a_file());
  ASSERT_TRUE(tree_.make_opaque("d"));
  put("d/later", a_file());
  ASSERT_TRUE(tree_.make_opaque("none"));
  EXPECT_EQ(paths(), (Paths{"d/", "d/later", "d/new"}));
  EXPECT_EQ(tree_.find("d")->mode, 0711);
  tree_.begin_layer();
  ASSERT_TRUE(tree_.make_opaque(""));
  EXPECT_EQ(paths(), Paths{});
}

TEST_F(FileTreeTest, AHardLinkToALowerFileIsOfTheLayerThatHasIt) {
  put("d/x", a_file());
  tree_.begin_layer();
  link("d/y", "d/x");
  ASSERT_TRUE(tree_.make_opaque("d"));
  EXPECT_EQ(paths(), (Paths{"d/", "d/y"}));
}

TEST_F(FileTreeTest, RefusesNamesThatLinuxDoesNotTake) {
  put(std::string(255, 'n'), a_file());
  EXPECT_TRUE(refusal_of_put(std::string(256, 'n')).contains("' has 256 bytes, and Linux takes 255; rename it"));
  EXPECT_EQ(refusal_of_put(std::string(4097, '/')),
            "the path has 4097 bytes, and Linux takes 4096; remove it from the image");
  put("l", a_link(std::string(300, 'm')));
  EXPECT_TRUE(refusal_of_put("l/x").contains("' has 300 bytes, and Linux takes 255; rename it"));
}

TEST_F(FileTreeTest, RefusesToGoDeeperThanRecursionMay) {
  std::string deep;
  for (int level = 0; level < 1000; ++level) deep += "d/";
  put(deep, a_directory());
  put("l", a_link(deep));
  EXPECT_EQ(refusal_of_put("l/" + deep + "x"), "it is over 1024 directories deep; remove it from the image");
}

TEST(FileTreeLimits, CountEntriesOfAllLayersAndImpliedDirectories) {
  FileTree tree{ImageLimits{.max_files = 3}};
  tree.begin_layer();
  ASSERT_TRUE(tree.put("a/b", a_file()));
  ASSERT_TRUE(tree.put("a/b", a_file()));
  const auto over = tree.put("c", a_file());
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().message, "the image has over 3 files; --max-files raises the limit");
}

TEST(FileTreeLimits, CountNamesTargetsAndAttributes) {
  constexpr std::uint64_t kLimit = 30 + sizeof(ExtendedAttribute);
  FileTree tree{ImageLimits{.max_metadata_bytes = kLimit}};
  tree.begin_layer();
  ASSERT_TRUE(tree.put("12345", a_link("12345")));
  Inode heavy = a_file();
  heavy.attributes = {{"user.12345", "1234567890"}};
  const auto over = tree.put("f", std::move(heavy));
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().message, "names, links and extended attributes have over " + std::to_string(kLimit) +
                                      " bytes; --max-metadata raises the limit");
}

TEST(FileTreeLimits, CountWhatShortAttributesTake) {
  FileTree tree{ImageLimits{.max_metadata_bytes = std::uint64_t{64} << 10}};
  tree.begin_layer();
  Inode inode = a_file();
  for (int number = 0; number < 500; ++number) inode.attributes.push_back({"user." + std::to_string(number), "1"});
  EXPECT_TRUE(tree.put("a", inode));
  EXPECT_FALSE(tree.put("b", inode)) << "of which 9 KB are letters";
}

TEST(FileTreeLimits, ALayerOfLinksOfLinksEnds) {
  FileTree tree{ImageLimits{.max_lookups = 100'000}};
  tree.begin_layer();
  // Each way through a link goes down and up as often as a target has room for.
  ASSERT_TRUE(tree.put("d", a_directory()));
  std::string around;
  while (around.size() < 4000) around += "d/../";
  std::string path;
  for (int number = 0; number < 39; ++number) {
    const std::string name = "l" + std::to_string(number);
    ASSERT_TRUE(tree.put(name, a_link(around)));
    path += name + "/";
  }
  Status done;
  for (int times = 0; times < 3 && done; ++times) done = tree.white_out(path + "x");
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().message, "its paths take over 100000 look-ups; do not use this image, which may be an attack");
}

TEST(FileTreeLimits, OpaqueDirectoriesWithoutEndEnd) {
  FileTree tree{ImageLimits{.max_lookups = 10'000}};
  tree.begin_layer();
  for (int number = 0; number < 100; ++number) ASSERT_TRUE(tree.put("d/" + std::to_string(number), a_file()));
  Status done;
  for (int times = 0; times < 100 && done; ++times) done = tree.make_opaque("d");
  EXPECT_FALSE(done);
}

TEST_F(FileTreeTest, FindFollowsEveryLink) {
  put("usr/lib/os-release", a_file(5));
  put("etc/os-release", a_link("../usr/lib/os-release"));
  put("conf", a_link("/etc"));
  EXPECT_EQ(tree_.find("/conf/os-release")->uid, 5U);
  EXPECT_EQ(tree_.find("/conf")->kind, InodeKind::Directory);
  EXPECT_EQ(tree_.find("/conf/os-release/x"), nullptr);
  EXPECT_EQ(tree_.find("/none"), nullptr);
  EXPECT_EQ(tree_.find("../x"), nullptr);
  EXPECT_EQ(tree_.find("/"), &tree_.root());
}

}  // namespace
}  // namespace mayfly::image
