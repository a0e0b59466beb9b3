// The metadata service of a restored machine: any bytes as its part of a state file, any documents that the host then
// puts and patches, any paths that the guest asks for, and then a hostile guest.

#include "snapshot/visit.h"
#include "tests/fuzz/mmds_guest.h"
#include "vmm/config/ipv4_address.h"

namespace mayfly {
namespace {

using testing::must;

std::span<const std::uint8_t> take_part(std::span<const std::uint8_t>& input) {
  const std::size_t length = std::min<std::size_t>(take<std::uint16_t>(input) % 1024U, input.size());
  const auto part = input.first(length);
  input = input.subspan(length);
  return part;
}

std::string_view text_of(std::span<const std::uint8_t> part) {
  return {reinterpret_cast<const char*>(part.data()), part.size()};
}

/// As a load decodes it; what was decoded is written and read as the same.
std::optional<MmdsConfig> restore(std::span<const std::uint8_t> part) {
  constexpr unsigned kNewest = ~0U;
  StateReader reader{std::as_bytes(part), kNewest};
  MmdsConfig config;
  visit(reader, config);
  if (reader.failed()) return std::nullopt;
  StateWriter writer;
  visit(writer, config);
  const std::vector<std::byte> written = std::move(writer).take();
  StateReader again{written, kNewest};
  MmdsConfig same;
  visit(again, same);
  must(!again.failed() && again.left() == 0 && same == config);
  // Another one, such as the guest's own, is refused by decode_snapshot().
  if (!parse_mmds_address(format_ipv4_address(config.ipv4_address))) return std::nullopt;
  return config;
}

void put(MetadataStore& store, std::string_view document, std::string_view patch) {
  if (auto json = parse_json(document, "it")) (void)store.put(std::move(*json));
  if (auto json = parse_json(patch, "it")) (void)store.patch(std::move(*json));
  const std::string text = store.json();
  must(text.size() <= MetadataStore::kDefaultLimit);
  auto read = parse_json(text, "what is kept");
  must(read.has_value());
  MetadataStore twin;
  must(twin.put(std::move(*read)).has_value() && twin.json() == text);
}

void play(std::span<const std::uint8_t> input) {
  const auto config = restore(take_part(input));
  if (!config) return;
  MetadataStore store;
  const std::string_view document = text_of(take_part(input));
  put(store, document, text_of(take_part(input)));
  const std::string path{text_of(take_part(input))};
  for (const auto format : {MetadataStore::Format::Json, MetadataStore::Format::Imds}) (void)store.get(path, format);
  testing::HostileGuest guest{*config, store, 1};
  const std::string answer = guest.ask("GET /" + path + " HTTP/1.1\r\nX-metadata-token: x\r\n\r\n", 999);
  must(answer.starts_with("HTTP/1.1 "));
  if (input.empty()) return;
  while (!input.empty()) guest.step(input);
  guest.finish([](std::string_view answer) { return answer.starts_with("HTTP/1.1 "); });
}

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  mayfly::play({data, size});
  return 0;
}
