#include "vmm/cli/device_options.h"

#include "vmm/config/mac_address.h"

#include <initializer_list>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using Values = std::vector<std::string>;

std::vector<DriveConfig> drives(const Values& values) {
  auto read = read_drive_options(values);
  EXPECT_TRUE(read) << read.error().message;
  return read.value_or(std::vector<DriveConfig>(values.size()));
}

std::vector<NetworkInterfaceConfig> nets(const Values& values) {
  auto read = read_net_options(values);
  EXPECT_TRUE(read) << read.error().message;
  return read.value_or(std::vector<NetworkInterfaceConfig>(values.size()));
}

std::string refused_drives(const Values& values) {
  const auto read = read_drive_options(values);
  EXPECT_FALSE(read) << values.front();
  return read ? "" : read.error().message;
}

std::string refused_nets(const Values& values) {
  const auto read = read_net_options(values);
  EXPECT_FALSE(read) << values.front();
  return read ? "" : read.error().message;
}

TEST(DriveOption, APathIsEnough) {
  EXPECT_TRUE(drives({}).empty());
  const auto read = drives({"a.img", "/b.img"});
  EXPECT_EQ(read[0].path_on_host, "a.img");
  EXPECT_EQ(read[0].drive_id, "drive0");
  EXPECT_FALSE(read[0].is_root_device);
  EXPECT_FALSE(read[0].is_read_only);
  EXPECT_FALSE(read[0].direct);
  EXPECT_EQ(read[0].cache_type, CacheType::Unsafe);
  EXPECT_EQ(read[0].discard, Discard::Ignore);
  EXPECT_EQ(read[1].path_on_host, "/b.img");
  EXPECT_EQ(read[1].drive_id, "drive1");
}

TEST(DriveOption, PartsComeInAnyOrder) {
  for (const char* const text :
       {"/r,root,ro,direct,cache=writeback,discard,id=r", "/r,id=r,discard,cache=writeback,direct,ro,root",
        "path=/r,root,ro,direct,cache=writeback,id=r,discard", "id=r,cache=writeback,ro,direct,discard,root,path=/r"}) {
    const auto read = drives({text});
    EXPECT_EQ(read[0].path_on_host, "/r") << text;
    EXPECT_EQ(read[0].drive_id, "r") << text;
    EXPECT_TRUE(read[0].is_root_device) << text;
    EXPECT_TRUE(read[0].is_read_only) << text;
    EXPECT_TRUE(read[0].direct) << text;
    EXPECT_EQ(read[0].cache_type, CacheType::Writeback) << text;
    EXPECT_EQ(read[0].discard, Discard::Unmap) << text;
  }
  EXPECT_EQ(drives({"a,cache=unsafe"})[0].cache_type, CacheType::Unsafe);
}

TEST(DriveOption, APathMayHaveCommasAndLookLikeAPart) {
  const auto path = [](const char* text) { return drives({text})[0].path_on_host; };
  EXPECT_EQ(path("a,,b,ro"), "a,b");
  EXPECT_EQ(path("a,,,ro"), "a,");
  EXPECT_EQ(path("path=a,,,,b"), "a,,b");
  EXPECT_EQ(path("ro"), "ro");
  EXPECT_EQ(path("root=x"), "root=x");
  EXPECT_EQ(path("x=y.img,ro"), "x=y.img");
  EXPECT_EQ(path("path=id=x"), "id=x");
  EXPECT_EQ(path("./id=x"), "./id=x");
}

TEST(DriveOption, LayersAreNamedFromTheBaseUp) {
  for (const char* text : {"base=/b,overlay=/o,root", "/o,base=/b,root", "base=/b,root,path=/o"}) {
    const DriveConfig drive = drives({text})[0];
    EXPECT_EQ(drive.path_on_host, "/o") << text;
    EXPECT_EQ(drive.base_paths, Values{"/b"}) << text;
    EXPECT_TRUE(drive.is_root_device) << text;
  }
  EXPECT_EQ(drives({"base=/b,base=/layer,,1,overlay=/o"})[0].base_paths, (Values{"/b", "/layer,1"}));
  EXPECT_TRUE(drives({"/d"})[0].base_paths.empty());
  EXPECT_EQ(refused_drives({"base=/b"}), "--drive base=/b: path is missing");
  EXPECT_EQ(refused_drives({"overlay=/o"}), "--drive overlay=/o: overlay needs the image below it; add base=IMAGE");
  EXPECT_EQ(refused_drives({"a,base=/b,overlay=/o"}), "--drive a,base=/b,overlay=/o: path is there twice");
  EXPECT_EQ(refused_drives({"a,base="}), "--drive a,base=: base has no value");
}

TEST(DriveOption, EachMistakeNamesTheOptionAndThePart) {
  EXPECT_EQ(refused_drives({"a,cach=writeback"}),
            "--drive a,cach=writeback: there is no part \"cach=writeback\"; the parts are path=, id=, ro, root, "
            "direct, cache=, discard, base=, overlay=");
  EXPECT_EQ(refused_drives({"a,b"}),
            "--drive a,b: there is no part \"b\"; the parts are path=, id=, ro, root, direct, cache=, discard, base=, "
            "overlay=");
  EXPECT_EQ(refused_drives({"a,"}),
            "--drive a,: there is no part \"\"; the parts are path=, id=, ro, root, direct, cache=, discard, base=, "
            "overlay=");
  EXPECT_EQ(refused_drives({""}), "--drive : path has no value");
  EXPECT_EQ(refused_drives({"path="}), "--drive path=: path has no value");
  EXPECT_EQ(refused_drives({"id=a,ro"}), "--drive id=a,ro: path is missing");
  EXPECT_EQ(refused_drives({"a,ro,ro"}), "--drive a,ro,ro: ro is there twice");
  EXPECT_EQ(refused_drives({"a,path=b"}), "--drive a,path=b: path is there twice");
  EXPECT_EQ(refused_drives({"a,ro=yes"}), "--drive a,ro=yes: ro takes no value");
  EXPECT_EQ(refused_drives({"a,id"}), "--drive a,id: id has no value");
  EXPECT_EQ(refused_drives({"a,id="}), "--drive a,id=: id has no value");
  EXPECT_EQ(refused_drives({"a,id=b/c"}),
            "--drive a,id=b/c: id must be 1 to 64 letters, digits, \"_\" and \"-\", not \"b/c\"");
  EXPECT_EQ(refused_drives({"a,cache=none"}), "--drive a,cache=none: cache must be unsafe or writeback, not \"none\"");
}

TEST(DriveOption, OneIsTheRootAndIdsDiffer) {
  const auto read = drives({"a", "b,root"});
  EXPECT_FALSE(read[0].is_root_device);
  EXPECT_TRUE(read[1].is_root_device);
  EXPECT_EQ(refused_drives({"a,root", "b", "c,root"}), "--drive c,root: root is already a, and only one drive can be");
  EXPECT_EQ(refused_drives({"a,id=drive1", "b"}),
            "--drive b: the id \"drive1\" is taken by another --drive; give one with id=");
}

TEST(NetOption, ATapIsEnough) {
  EXPECT_TRUE(nets({}).empty());
  const auto read = nets({"tap0", "tap=tap1"});
  EXPECT_EQ(read[0].host_dev_name, "tap0");
  EXPECT_EQ(read[0].iface_id, "eth0");
  EXPECT_FALSE(read[0].guest_mac);
  EXPECT_FALSE(read[0].mtu);
  EXPECT_EQ(read[1].host_dev_name, "tap1");
  EXPECT_EQ(read[1].iface_id, "eth1");
}

TEST(NetOption, TakesAddressMtuAndId) {
  const auto read = nets({"tap0,mac=06:00:ac:10:00:02,mtu=9000,id=lan", "tap1,mtu=68", "tap2,mtu=65535"});
  EXPECT_EQ(format_mac_address(read[0].guest_mac.value_or(MacAddress{})), "06:00:ac:10:00:02");
  EXPECT_EQ(read[0].mtu, 9000);
  EXPECT_EQ(read[0].iface_id, "lan");
  EXPECT_EQ(read[1].mtu, 68);
  EXPECT_EQ(read[2].mtu, 65535);
}

TEST(NetOption, EachMistakeNamesTheOptionAndThePart) {
  EXPECT_EQ(refused_nets({"tap0,speed=1"}),
            "--net tap0,speed=1: there is no part \"speed=1\"; the parts are tap=, id=, mac=, mtu=");
  EXPECT_EQ(refused_nets({"a/b"}),
            "--net a/b: tap must be the name of a TAP interface, 1 to 15 bytes without \"/\", \":\", \"%\" and blanks, "
            "not \"a/b\"");
  EXPECT_EQ(refused_nets({"mtu=1500"}), "--net mtu=1500: tap is missing");
  EXPECT_TRUE(refused_nets({"tap0,mac=1"}).starts_with("--net tap0,mac=1: mac: ")) << refused_nets({"tap0,mac=1"});
  for (const char* const mtu : {"67", "65536", "-1", "+100", "0x100", "1500 ", "99999999999999999999", "big"}) {
    EXPECT_EQ(refused_nets({fmt::format("tap0,mtu={}", mtu)}),
              fmt::format("--net tap0,mtu={0}: mtu must be from 68 to 65535, not \"{0}\"", mtu));
  }
  EXPECT_EQ(refused_nets({"tap0,id=a b"}),
            "--net tap0,id=a b: id must be 1 to 64 letters, digits, \"_\" and \"-\", not \"a b\"");
  EXPECT_EQ(refused_nets({"tap0,id=x", "tap1,id=x"}),
            "--net tap1,id=x: the id \"x\" is taken by another --net; give one with id=");
}

}  // namespace
}  // namespace mayfly
