#include "vmm/config/device_names.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(DeviceNames, AnIdHasLettersDigitsUnderscoresAndHyphens) {
  for (const std::string_view id : {"rootfs", "a", "1", "_", "-", "Root_Drive-01", "MN2HE43UOVRDA"})
    EXPECT_TRUE(is_device_id(id)) << id;
  for (const std::string_view id : {"", " ", "a b", "a/b", "a.b", "a:b", "\xC3\xA4", "a\n"})
    EXPECT_FALSE(is_device_id(id)) << id;
  EXPECT_FALSE(is_device_id(std::string_view{"a\0", 2}));
  EXPECT_TRUE(is_device_id(std::string(64, 'x')));
  EXPECT_FALSE(is_device_id(std::string(65, 'x')));
}

TEST(DeviceNames, AnInterfaceNameIsWhatLinuxTakes) {
  for (const std::string_view name : {"tap0", "t", "fc-88-tap0", "vm@1", "...", "123456789012345"})
    EXPECT_TRUE(is_interface_name(name)) << name;
  for (const std::string_view name : {"", ".", "..", "tap 0", "a/b", "tap:1", "tap%d", "1234567890123456", "tap\n"})
    EXPECT_FALSE(is_interface_name(name)) << name;
  EXPECT_FALSE(is_interface_name(std::string_view{"tap\0", 4}));
}

}  // namespace
}  // namespace mayfly
