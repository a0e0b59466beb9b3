#include "vmm/base/machine_id.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(MachineId, HasLettersDigitsAndHyphens) {
  for (const char* const good : {"a", "vm-7", "-", "0", kDefaultMachineId, kDefaultTerminalId})
    EXPECT_TRUE(is_machine_id(good)) << good;
  for (const char* const bad : {"", "vm 7", "vm_7", "vm/7", "vm\x1B", "\u00E4"})
    EXPECT_FALSE(is_machine_id(bad)) << bad;
  EXPECT_TRUE(is_machine_id(std::string(64, 'x')));
  EXPECT_FALSE(is_machine_id(std::string(65, 'x')));
}

}  // namespace
}  // namespace mayfly
