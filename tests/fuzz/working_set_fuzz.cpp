// Any bytes as a working-set file, with checksums that are right if the first byte says so: nothing crashes, and what
// is taken is within its memory and comes back as it was.

#include "snapshot/checksum.h"
#include "snapshot/working_set.h"

#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr std::size_t kTableChecksum = 48;  // where they stand in the header
constexpr std::size_t kChecksum = 56;
constexpr std::size_t kHeader = 64;

void repair(std::vector<std::byte>& bytes) {
  if (bytes.size() < kHeader) return;
  const std::uint64_t table = mayfly::checksum(std::span{bytes}.subspan(kHeader));
  std::memcpy(&bytes[kTableChecksum], &table, sizeof table);
  const std::uint64_t header = mayfly::checksum(std::span{bytes}.first(kChecksum));
  std::memcpy(&bytes[kChecksum], &header, sizeof header);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto input = std::as_bytes(std::span{data, size});
  std::vector<std::byte> bytes{input.begin() + 1, input.end()};
  if ((data[0] & 1) != 0) repair(bytes);  // NOLINT
  const auto set = mayfly::decode_working_set(bytes);
  if (!set) return 0;
  if (mayfly::bytes_in(set->ranges) > set->memory_size || mayfly::bytes_in(set->written) > set->memory_size)
    std::abort();
  if (mayfly::encode_working_set(*set).size() != bytes.size()) std::abort();
  return 0;
}
