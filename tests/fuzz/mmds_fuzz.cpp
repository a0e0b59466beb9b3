// What a hostile guest can do to the metadata service: any bytes in frames for it, any segments in any order on
// connections that are open, at any time, while it takes what it is sent or does not. Whatever it did, the next
// client that keeps the rules is served.

#include "tests/fuzz/mmds_guest.h"

namespace mayfly {
namespace {

using testing::must;

/// The same for all inputs.
const MetadataStore& metadata() {
  static const MetadataStore* const store = [] {
    auto json = parse_json(R"({"latest":{"meta-data":{"ami-id":"ami-1"},"big":")" + std::string(9000, 'x') + R"("}})",
                           "the data");
    auto* made = new MetadataStore;
    must(json.has_value() && made->put(std::move(*json)).has_value());
    return made;
  }();
  return *store;
}

MmdsConfig config_of(std::uint8_t kind) {
  MmdsConfig config;
  config.imds_compat = (kind & 1) != 0;
  if ((kind & 2) != 0) config.version = MmdsVersion::V2;
  return config;
}

bool is_right(std::string_view answer) {
  return answer.ends_with("\r\n\r\nami-1") || answer.starts_with("HTTP/1.1 401 ");
}

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::span<const std::uint8_t> input{data, size};
  const auto kind = mayfly::take<std::uint8_t>(input);
  mayfly::testing::HostileGuest guest{mayfly::config_of(kind), mayfly::metadata(), kind};
  while (!input.empty()) guest.step(input);
  guest.finish(mayfly::is_right);
  return 0;
}
