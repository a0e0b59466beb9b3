#include "virtio/mmds/siphash.h"

#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// The message 00 01 02... under the key 00 01 ... 0f, as the authors' test vectors have it.
std::string tag_of(std::size_t length) {
  SipKey key;
  for (std::uint8_t i = 0; i < key.size(); ++i) key[i] = i;
  std::vector<std::uint8_t> message;
  for (std::size_t i = 0; i < length; ++i) message.push_back(static_cast<std::uint8_t>(i));
  return fmt::format("{:02x}", fmt::join(siphash(key, message), ""));
}

TEST(SipHash, GivesWhatItsAuthorsGive) {
  EXPECT_EQ(tag_of(0), "a3817f04ba25a8e66df67214c7550293");
  EXPECT_EQ(tag_of(8), "3b62a9ba6258f5610f83e264f31497b4");
  EXPECT_EQ(tag_of(15), "5493e99933b0a8117e08ec0f97cfc3d9");
  EXPECT_EQ(tag_of(16), "6ee2a4ca67b054bbfd3315bf85230577");
  EXPECT_EQ(tag_of(17), "473d06e8738db89854c066c47ae47740");
}

}  // namespace
}  // namespace mayfly
