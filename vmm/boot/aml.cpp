#include "vmm/boot/aml.h"

#include <array>
#include <bit>

namespace mayfly::aml {
namespace {

// ACPI 6.5, table 20.2.
constexpr std::uint8_t kZeroOp = 0x00;
constexpr std::uint8_t kOneOp = 0x01;
constexpr std::uint8_t kNameOp = 0x08;
constexpr std::uint8_t kBytePrefix = 0x0A;
constexpr std::uint8_t kWordPrefix = 0x0B;
constexpr std::uint8_t kDwordPrefix = 0x0C;
constexpr std::uint8_t kStringPrefix = 0x0D;
constexpr std::uint8_t kQwordPrefix = 0x0E;
constexpr std::uint8_t kScopeOp = 0x10;
constexpr std::uint8_t kBufferOp = 0x11;
constexpr std::uint8_t kPackageOp = 0x12;
constexpr std::uint8_t kMethodOp = 0x14;
constexpr std::uint8_t kExtendedPrefix = 0x5B;
constexpr std::uint8_t kDeviceOp = 0x82;
constexpr std::uint8_t kNotifyOp = 0x86;
constexpr std::uint8_t kRootCharacter = '\\';
constexpr std::uint8_t kSerialized = 0x08;

// ACPI 6.5, 6.4.2 and 6.4.3: tags of resource descriptors.
constexpr std::uint8_t kIoPortTag = 0x47;
constexpr std::uint8_t kEndTag = 0x79;
constexpr std::uint8_t kMemory32FixedTag = 0x86;
constexpr std::uint8_t kExtendedInterruptTag = 0x89;
constexpr std::uint8_t kReadWrite = 1;
constexpr std::uint8_t kDecode16 = 1;
constexpr std::uint8_t kConsumerEdgeHighExclusive = 0x03;

constexpr std::size_t kSegmentLength = 4;

TableBytes text(std::string_view characters) { return {characters.begin(), characters.end()}; }

TableBytes segment_bytes(std::string_view segment) {
  ensure(segment.size() == kSegmentLength, "an AML name has not four characters");
  return text(segment);
}

TableBytes join(Terms terms) {
  TableBytes all;
  for (const TableBytes& term : terms) append(all, term);
  return all;
}

/// A package length (20.2.4), which counts its own bytes, before what it measures.
TableBytes with_length(const TableBytes& content) {
  constexpr std::size_t kLimitOfOneByte = 0x40;
  constexpr std::array<std::size_t, 3> kLimits{0x1000, 0x10'0000, 0x1000'0000};
  TableBytes bytes;
  if (content.size() + 1 < kLimitOfOneByte) {
    bytes.push_back(static_cast<std::uint8_t>(content.size() + 1));
  } else {
    std::size_t following = 1;
    while (following < kLimits.size() && content.size() + 1 + following >= kLimits[following - 1]) ++following;
    const std::size_t length = content.size() + 1 + following;
    ensure(length < kLimits.back(), "an AML term is too long");
    bytes.push_back(static_cast<std::uint8_t>(following << 6 | (length & 0xF)));
    for (std::size_t byte = 0; byte < following; ++byte)
      bytes.push_back(static_cast<std::uint8_t>(length >> (4 + 8 * byte)));
  }
  append(bytes, content);
  return bytes;
}

}  // namespace

TableBytes integer(std::uint64_t value) {
  if (value == 0) return {kZeroOp};
  if (value == 1) return {kOneOp};
  TableBytes bytes;
  if (value <= UINT8_MAX) {
    bytes.push_back(kBytePrefix);
    append(bytes, static_cast<std::uint8_t>(value));
  } else if (value <= UINT16_MAX) {
    bytes.push_back(kWordPrefix);
    append(bytes, static_cast<std::uint16_t>(value));
  } else if (value <= UINT32_MAX) {
    bytes.push_back(kDwordPrefix);
    append(bytes, static_cast<std::uint32_t>(value));
  } else {
    bytes.push_back(kQwordPrefix);
    append(bytes, value);
  }
  return bytes;
}

TableBytes string(std::string_view characters) { return join({{kStringPrefix}, text(characters), {0}}); }

TableBytes eisa_id(std::string_view id) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  ensure(id.size() == 7, "a plug-and-play id has not seven characters");
  std::uint32_t packed = 0;
  for (const char letter : id.substr(0, 3)) packed = packed << 5 | (static_cast<std::uint32_t>(letter) & 0x1F);
  for (const char digit : id.substr(3)) {
    const std::size_t value = kDigits.find(digit);
    ensure(value != std::string_view::npos, "a plug-and-play id has a wrong digit");
    packed = packed << 4 | static_cast<std::uint32_t>(value);
  }
  TableBytes bytes{kDwordPrefix};
  append(bytes, std::byteswap(packed));  // big-endian, unlike all else
  return bytes;
}

TableBytes package(Terms elements) {
  return join({{kPackageOp}, with_length(join({{static_cast<std::uint8_t>(elements.size())}, join(elements)}))});
}

TableBytes name(std::string_view segment, const TableBytes& value) {
  return join({{kNameOp}, segment_bytes(segment), value});
}

TableBytes root_scope(std::string_view segment, const TableBytes& terms) {
  return join({{kScopeOp}, with_length(join({{kRootCharacter}, segment_bytes(segment), terms}))});
}

TableBytes device(std::string_view segment, Terms terms) {
  return join({{kExtendedPrefix, kDeviceOp}, with_length(join({segment_bytes(segment), join(terms)}))});
}

TableBytes method(std::string_view segment, unsigned arguments, Terms terms) {
  const auto flags = static_cast<std::uint8_t>((arguments & 0x7) | kSerialized);
  return join({{kMethodOp}, with_length(join({segment_bytes(segment), {flags}, join(terms)}))});
}

TableBytes notify(std::string_view segment, std::uint8_t value) {
  return join({{kNotifyOp}, segment_bytes(segment), integer(value)});
}

TableBytes resources(Terms descriptors) {
  // The end tag's checksum may be 0: "treat as if it summed up" (6.4.2.9).
  const TableBytes all = join({join(descriptors), {kEndTag, 0}});
  return join({{kBufferOp}, with_length(join({integer(all.size()), all}))});
}

TableBytes memory_window(std::uint32_t base, std::uint32_t size) {
  TableBytes bytes{kMemory32FixedTag};
  append(bytes, std::uint16_t{9});
  append(bytes, kReadWrite);
  append(bytes, base);
  append(bytes, size);
  return bytes;
}

TableBytes io_ports(std::uint16_t first, std::uint8_t count) {
  TableBytes bytes{kIoPortTag, kDecode16};
  append(bytes, first);
  append(bytes, first);
  append(bytes, std::uint8_t{1});
  append(bytes, count);
  return bytes;
}

TableBytes interrupt(std::uint32_t gsi) {
  TableBytes bytes{kExtendedInterruptTag};
  append(bytes, std::uint16_t{6});
  append(bytes, kConsumerEdgeHighExclusive);
  append(bytes, std::uint8_t{1});
  append(bytes, gsi);
  return bytes;
}

}  // namespace mayfly::aml
