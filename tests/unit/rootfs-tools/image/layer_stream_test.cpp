#include "rootfs-tools/image/layer_stream.h"

#include "tests/unit/rootfs-tools/image/archives.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

std::string some_text(std::size_t size) {
  std::string text;
  while (text.size() < size) text += fmt::format("line {} of some text\n", text.size() * 2654435761U % 1000003);
  return text;
}

struct Unpacked {
  std::string text;
  std::string error;
  std::string blob_digest;
  std::string diff_id;
};

Unpacked unpack(const std::string& packed, const ImageLimits& limits = {}) {
  std::uint64_t budget = limits.max_bytes;
  LayerStream stream{part_of(packed), limits, budget};
  Unpacked unpacked;
  for (;;) {
    const auto bytes = stream.next();
    if (!bytes) unpacked.error = bytes.error().message;
    if (!bytes || bytes->empty()) break;
    unpacked.text.append(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  }
  unpacked.blob_digest = stream.blob_digest();
  unpacked.diff_id = stream.diff_id();
  return unpacked;
}

/// In whichever way a layer is packed.
class PackedLayer : public ::testing::TestWithParam<std::string (*)(std::string_view)> {};

std::string not_packed(std::string_view text) { return std::string{text}; }

TEST_P(PackedLayer, ComesBackWithBothDigests) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{511}, std::size_t{3} << 20}) {
    const std::string text = size == 0 ? "" : some_text(size);
    const std::string packed = GetParam()(text);
    const Unpacked unpacked = unpack(packed);
    EXPECT_EQ(unpacked.error, "");
    EXPECT_EQ(unpacked.text, text) << size;
    EXPECT_EQ(unpacked.blob_digest, digest_of(packed));
    EXPECT_EQ(unpacked.diff_id, digest_of(text));
  }
}

TEST_P(PackedLayer, DrainsWhatNobodyRead) {
  const std::string text = some_text(1 << 20);
  const std::string packed = GetParam()(text);
  std::uint64_t budget = 1 << 30;
  LayerStream stream{part_of(packed), {}, budget};
  ASSERT_TRUE(stream.next());
  ASSERT_TRUE(stream.drain());
  EXPECT_EQ(stream.blob_digest(), digest_of(packed));
  EXPECT_EQ(stream.diff_id(), digest_of(text));
  EXPECT_EQ(budget, (std::uint64_t{1} << 30) - text.size());
}

TEST_P(PackedLayer, IsRefusedOverTheLimitOfAllLayers) {
  const Unpacked unpacked = unpack(GetParam()(some_text(1 << 20)), {.max_bytes = 1 << 19});
  EXPECT_EQ(unpacked.error, "the layers unpack to over 524288 bytes; --max-size raises the limit");
  EXPECT_LE(unpacked.text.size(), std::size_t{1} << 19);
}

INSTANTIATE_TEST_SUITE_P(Ways, PackedLayer, ::testing::Values(not_packed, gzip, zstd));

TEST(LayerStream, ReadsGzipOfSeveralMembersAndZstdOfSeveralFrames) {
  EXPECT_EQ(unpack(gzip("one ") + gzip("") + gzip("two")).text, "one two");
  const std::string skippable{"\x5e\x2a\x4d\x18\x03\0\0\0xyz", 11};
  const Unpacked frames = unpack(skippable + zstd("one ") + skippable + zstd("two") + skippable);
  EXPECT_EQ(frames.error, "");
  EXPECT_EQ(frames.text, "one two");
}

TEST(LayerStream, RefusesWhatIsCutOffOrDamaged) {
  const std::string text = some_text(100'000);
  for (const auto pack : {gzip, zstd}) {
    const std::string packed = pack(text);
    for (const std::size_t length : {std::size_t{5}, packed.size() / 2, packed.size() - 1})
      EXPECT_TRUE(unpack(packed.substr(0, length)).error.ends_with("(it is cut off); copy or fetch the image again"))
          << length << " of " << packed.size();
    std::string damaged = packed;
    damaged[packed.size() / 2] ^= 0x55;
    damaged[packed.size() / 2 + 1] ^= 0x55;
    EXPECT_TRUE(unpack(damaged).error.starts_with("it is no whole ")) << unpack(damaged).error;
    EXPECT_TRUE(unpack(packed + "and more").error.starts_with("it is no whole ")) << unpack(packed + "x").error;
  }
}

TEST(LayerStream, RefusesWhatImagesAreNotPackedBy) {
  const std::string refusal = "it is packed by xz or bzip2; images have gzip, zstd or none: pack it anew, or unpack it";
  EXPECT_EQ(unpack(std::string{"\xfd"
                               "7zXZ\0rest",
                               10})
                .error,
            refusal);
  EXPECT_EQ(unpack("BZh91AY").error, refusal);
}

TEST(LayerStream, RefusesABombAndNotAFewZeros) {
  const std::string packed = gzip(std::string(kRatioCounts + (std::size_t{1} << 20), '\0'));
  const Unpacked bomb = unpack(packed);
  EXPECT_TRUE(bomb.error.contains("over 200 times as many; --max-ratio raises the limit, if this is no attack"))
      << bomb.error;
  EXPECT_EQ(bomb.text.size(), kRatioCounts) << "so many may be of any ratio";
  EXPECT_EQ(unpack(packed, {.max_ratio = 2000}).error, "");
}

TEST(LayerStream, SaysSoWhereTheFileIsShorterThanThePart) {
  FilePart part = part_of("abc");
  part.size = 10;
  std::uint64_t budget = 1000;
  LayerStream stream{part, {}, budget};
  const auto bytes = stream.next();
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().message, "the file ends before it does; copy or fetch the image again");
}

}  // namespace
}  // namespace mayfly::image
