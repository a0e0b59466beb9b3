#include "jailer/seccomp/blob.h"

#include <cstring>

#include <gtest/gtest.h>

namespace mayfly::seccomp {
namespace {

const std::array<sock_filter, 2> kProgram = {sock_filter{BPF_LD, 0, 0, 4}, sock_filter{BPF_RET, 0, 0, 7}};

std::vector<NamedProgram> all_threads() {
  std::vector<NamedProgram> programs;
  for (const std::string_view name : kThreadNames) programs.push_back({name, kProgram});
  return programs;
}

std::string blob_refusal_of(std::span<const std::byte> blob) {
  const auto found = find_programs(blob);
  return found ? "" : found.error().message;
}

/// A number in the blob, replaced.
std::vector<std::byte> with(std::vector<std::byte> blob, std::size_t offset, std::uint32_t number) {
  std::memcpy(blob.data() + offset, &number, sizeof number);
  return blob;
}

constexpr std::size_t kFirstOffset = sizeof(BlobHeader) + offsetof(BlobEntry, offset);
constexpr std::size_t kFirstLength = sizeof(BlobHeader) + offsetof(BlobEntry, length);

TEST(FilterBlob, GivesBackWhatWasPutIn) {
  const auto blob = make_blob(all_threads());
  const auto found = find_programs(blob);
  ASSERT_TRUE(found) << found.error().message;
  const auto program = found->of(ThreadKind::Vcpu);
  ASSERT_EQ(program.size(), kProgram.size());
  EXPECT_EQ(std::memcmp(program.data(), kProgram.data(), sizeof kProgram), 0);
}

TEST(FilterBlob, CutShortAnywhereItIsRefused) {
  const auto blob = make_blob(all_threads());
  for (std::size_t length = 0; length < blob.size(); ++length)
    EXPECT_NE(blob_refusal_of(std::span{blob}.first(length)), "") << length;
}

TEST(FilterBlob, SaysWhatIsWrongWithIt) {
  const auto blob = make_blob(all_threads());
  EXPECT_EQ(blob_refusal_of(with(blob, 0, 0)),
            "these are no compiled filters; make it with mayfly-seccompile of this version");
  EXPECT_NE(blob_refusal_of(with(blob, offsetof(BlobHeader, version), 2)).find("format 2, and this monitor reads 1"),
            std::string::npos);
  EXPECT_NE(blob_refusal_of(with(blob, offsetof(BlobHeader, count), 17)).find("the table of 17 filters"),
            std::string::npos);
  EXPECT_NE(blob_refusal_of(with(blob, offsetof(BlobHeader, count), 0)).find("no filter for thread loop"),
            std::string::npos);
  for (const std::uint32_t length : {0U, 4097U, 0xffffffffU})
    EXPECT_NE(blob_refusal_of(with(blob, kFirstLength, length)).find("which must be 1 to 4096"), std::string::npos);
  for (const std::uint32_t offset : {0xfffffff8U, static_cast<std::uint32_t>(blob.size()), 17U})
    EXPECT_NE(blob_refusal_of(with(blob, kFirstOffset, offset)).find("of thread loop goes beyond the end"),
              std::string::npos);
}

TEST(FilterBlob, WantsEachThreadOnceAndNoOther) {
  auto programs = all_threads();
  programs.pop_back();
  EXPECT_EQ(
      blob_refusal_of(make_blob(programs)),
      "there is no filter for thread channels_all; add a section [channels_all] to the text, as filters.txt of this "
      "version has it")
      << "as it is in what an older version compiled";
  programs.push_back({"vcpu", kProgram});
  EXPECT_NE(blob_refusal_of(make_blob(programs)).find("thread vcpu has two filters"), std::string::npos);
  programs = all_threads();
  programs.push_back({"later-kind", kProgram});
  EXPECT_EQ(blob_refusal_of(make_blob(programs)), "");
}

}  // namespace
}  // namespace mayfly::seccomp
