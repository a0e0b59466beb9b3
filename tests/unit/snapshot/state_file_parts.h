#pragma once

#include "snapshot/checksum.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// State files taken apart and put together again with right checksums: for tests that must get past them, and written
/// from the format's description (state_file.h), not with its code.
namespace mayfly::testing {

inline constexpr std::size_t kStateHeaderSize = 16;    // magic, format, number of sections
inline constexpr std::size_t kSectionHeaderSize = 40;  // name, version, flags, length, checksum
inline constexpr std::size_t kSectionLengthAt = 24;
inline constexpr std::size_t kSectionChecksumAt = 32;

struct StateSection {
  std::string name;
  std::uint16_t version = 1;
  std::uint16_t flags = 0;
  std::vector<std::byte> content;
};

template <typename T>
[[nodiscard]] T number_at(std::span<const std::byte> bytes, std::size_t at) {
  T value{};
  std::memcpy(&value, bytes.subspan(at, sizeof(T)).data(), sizeof(T));
  return value;
}

template <typename T>
void put_number(std::span<std::byte> bytes, std::size_t at, T value) {
  std::memcpy(bytes.subspan(at, sizeof(T)).data(), &value, sizeof(T));
}

/// Makes every length fit and every checksum right, in place: what is left is content.
inline void repair_state_file(std::span<std::byte> file) {
  constexpr std::size_t kEnd = sizeof(std::uint64_t);
  if (file.size() < kStateHeaderSize + kEnd) return;
  std::uint32_t sections = 0;
  std::span<std::byte> rest = file.subspan(kStateHeaderSize, file.size() - kStateHeaderSize - kEnd);
  for (; rest.size() >= kSectionHeaderSize; ++sections) {
    const std::uint64_t room = rest.size() - kSectionHeaderSize;
    const auto length = std::min<std::uint64_t>(number_at<std::uint64_t>(rest, kSectionLengthAt), room);
    put_number(rest, kSectionLengthAt, length);
    put_number(rest, kSectionChecksumAt, checksum(rest.subspan(kSectionHeaderSize, length)));
    rest = rest.subspan(kSectionHeaderSize + length);
  }
  put_number(file, kStateHeaderSize - sizeof sections, sections);
  put_number(file, file.size() - kEnd, checksum(file.first(file.size() - kEnd)));
}

/// A good file's sections.
[[nodiscard]] inline std::vector<StateSection> sections_of(std::span<const std::byte> file) {
  std::vector<StateSection> sections(number_at<std::uint32_t>(file, kStateHeaderSize - sizeof(std::uint32_t)));
  file = file.subspan(kStateHeaderSize);
  for (StateSection& section : sections) {
    const std::string_view padded{reinterpret_cast<const char*>(file.data()), 20};
    section.name = padded.substr(0, padded.find('\0'));
    section.version = number_at<std::uint16_t>(file, 20);
    section.flags = number_at<std::uint16_t>(file, 22);
    const auto content = file.subspan(kSectionHeaderSize, number_at<std::uint64_t>(file, kSectionLengthAt));
    section.content.assign(content.begin(), content.end());
    file = file.subspan(kSectionHeaderSize + content.size());
  }
  return sections;
}

[[nodiscard]] inline std::vector<std::byte> state_file_of(std::span<const StateSection> sections,
                                                          std::uint32_t format = 1) {
  std::vector<std::byte> file(kStateHeaderSize);
  std::memcpy(file.data(), "MAYFLYST", 8);
  put_number(file, 8, format);
  for (const StateSection& section : sections) {
    const std::size_t at = file.size();
    file.resize(at + kSectionHeaderSize);
    std::memcpy(&file[at], section.name.data(), std::min<std::size_t>(section.name.size(), 20));
    put_number(file, at + 20, section.version);
    put_number(file, at + 22, section.flags);
    put_number(file, at + kSectionLengthAt, std::uint64_t{section.content.size()});
    file.insert(file.end(), section.content.begin(), section.content.end());
  }
  file.resize(file.size() + sizeof(std::uint64_t));
  repair_state_file(file);
  return file;
}

}  // namespace mayfly::testing
