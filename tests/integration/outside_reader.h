#pragma once

#include "tests/support/api_description.h"
#include "tests/support/monitor.h"

#include <sys/uio.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::testing {

inline std::uint64_t number_of(const JsonValue& value) {
  const auto* whole = std::get_if<std::int64_t>(&value.data);
  return whole != nullptr ? static_cast<std::uint64_t>(*whole) : std::get<std::uint64_t>(value.data);
}

/// What the orchestrator makes of the answers.
class OutsideReader {
 public:
  explicit OutsideReader(Monitor& monitor) : monitor_(monitor) {
    const JsonValue answer = get("/memory/mappings");
    for (const JsonValue& each : std::get<JsonValue::Array>(at(answer, "mappings").data))
      regions_.push_back({.address = number_of(at(each, "base_host_virt_addr")),
                          .size = number_of(at(each, "size")),
                          .offset = number_of(at(each, "offset")),
                          .page_size = number_of(at(each, "page_size"))});
  }
  [[nodiscard]] std::uint64_t size() const { return regions_.back().offset + regions_.back().size; }
  [[nodiscard]] std::uint64_t page_size() const { return regions_.front().page_size; }
  [[nodiscard]] std::size_t pages() const { return size() / page_size(); }
  [[nodiscard]] std::vector<bool> bits(const std::string& path, const std::string& name) const {
    const JsonValue answer = get(path);
    std::vector<bool> bits;
    for (const JsonValue& word : std::get<JsonValue::Array>(at(answer, name).data))
      for (unsigned bit = 0; bit < 64; ++bit) bits.push_back((number_of(word) >> bit & 1) != 0);
    EXPECT_EQ(bits.size(), (pages() + 63) / 64 * 64) << path;
    bits.resize(pages());
    return bits;
  }
  /// Where the monitor's process has the bytes at an offset of the memory file.
  [[nodiscard]] iovec place_of(std::uint64_t offset, std::uint64_t length) const {
    const auto region = std::ranges::find_if(
        regions_, [&](const Region& each) { return offset >= each.offset && offset < each.offset + each.size; });
    return {.iov_base = reinterpret_cast<void*>(region->address + (offset - region->offset)),  // NOLINT
            .iov_len = length};
  }
  /// Those bytes, out of the monitor's process.
  [[nodiscard]] std::string read(std::uint64_t offset, std::uint64_t length) const {
    std::string bytes(length, '?');
    const iovec here{.iov_base = bytes.data(), .iov_len = length};
    const iovec there = place_of(offset, length);
    EXPECT_EQ(::process_vm_readv(monitor_.process().pid(), &here, 1, &there, 1, 0), static_cast<ssize_t>(length));
    return bytes;
  }
  /// Puts these pages into a file of the memory's size.
  void copy(const std::vector<bool>& which, const std::string& path) const {
    if (!std::filesystem::exists(path)) std::ofstream{path};
    std::filesystem::resize_file(path, size());
    std::fstream file{path, std::ios::binary | std::ios::in | std::ios::out};
    for (std::size_t page = 0; page < which.size(); ++page) {
      if (!which[page]) continue;
      file.seekp(static_cast<std::streamoff>(page * page_size()));
      file << read(page * page_size(), page_size());
    }
  }

 private:
  struct Region {
    std::uint64_t address, size, offset, page_size;
  };
  [[nodiscard]] JsonValue get(const std::string& path) const {
    const HttpAnswer answer = monitor_.get(path);
    EXPECT_EQ(answer.status, 200) << path << ' ' << answer.body;
    return parse_json(answer.body, path).value();
  }

  Monitor& monitor_;
  std::vector<Region> regions_;
};

}  // namespace mayfly::testing
