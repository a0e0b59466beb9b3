#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

/// How state becomes bytes and bytes state: each structure is described once, by a visit() function (visit.h), and an
/// archive that visits it writes, reads or prints it.
///
///   template <typename Archive>
///   void visit(Archive& archive, BootTimerState& state) {
///     archive.field("reported", state.reported);
///   }
///
/// On paper: whole numbers in little-endian order as wide as their type, truth values and enumerations as one byte,
/// text and lists behind a count of 32 bits, an optional value behind a byte 0 or 1, structures of KVM's ABI as they
/// are. Names are not stored: order is the format, and changes with a section's version (state_file.h).
namespace mayfly {

/// KVM's structures, whose layout is the kernel's promise: visit.h names them.
template <typename T>
inline constexpr bool kIsAbiStruct = false;
template <typename T>
concept AbiStruct = kIsAbiStruct<T>;

template <typename T>
concept Number = std::integral<T> && !std::same_as<T, bool>;

/// An enumeration's range, so that a reader can refuse a value outside of it. visit.h states it for each.
template <typename T>
struct EnumRange;
template <typename T>
concept BoundedEnum = std::is_enum_v<T> && requires {
  EnumRange<T>::kFirst;
  EnumRange<T>::kLast;
};

class StateWriter {
 public:
  /// The version of the section that is written: the newest.
  [[nodiscard]] static constexpr bool since(unsigned /*version*/) noexcept { return true; }

  template <typename T>
  void field(std::string_view /*name*/, T& value) {
    put(value);
  }
  [[nodiscard]] std::vector<std::byte> take() && { return std::move(bytes_); }

 private:
  void raw(const void* data, std::size_t length) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), begin, begin + length);
  }
  void count(std::size_t value) {
    const auto small = static_cast<std::uint32_t>(value);
    raw(&small, sizeof small);
  }
  template <Number T>
  void put(T& value) {
    raw(&value, sizeof value);
  }
  void put(bool& value) { bytes_.push_back(std::byte{value}); }
  template <BoundedEnum T>
  void put(T& value) {
    bytes_.push_back(static_cast<std::byte>(value));
  }
  template <AbiStruct T>
  void put(T& value) {
    raw(&value, sizeof value);
  }
  void put(std::string& value) {
    count(value.size());
    raw(value.data(), value.size());
  }
  template <typename T>
  void put(std::vector<T>& values) {
    count(values.size());
    if constexpr (AbiStruct<T> || Number<T> || std::same_as<T, std::byte>)
      raw(values.data(), values.size() * sizeof(T));
    else
      for (T& value : values) put(value);
  }
  template <typename T, std::size_t N>
  void put(std::array<T, N>& values) {
    for (T& value : values) put(value);
  }
  template <typename T>
  void put(std::optional<T>& value) {
    bytes_.push_back(std::byte{value.has_value()});
    if (value) put(*value);
  }
  template <typename T>
    requires(std::is_class_v<T> && !AbiStruct<T>)
  void put(T& value) {
    visit(*this, value);
  }

  std::vector<std::byte> bytes_;
};

/// Reads what a StateWriter wrote. Whatever the bytes are, it stays within them and allocates no more than a small
/// multiple of them; after the first failure, values keep what they are made with.
class StateReader {
 public:
  StateReader(std::span<const std::byte> bytes, unsigned version) noexcept : bytes_(bytes), version_(version) {}

  /// Whether the section that is read has what came with `version`.
  [[nodiscard]] bool since(unsigned version) const noexcept { return version_ >= version; }

  template <typename T>
  void field(std::string_view name, T& value) {
    if (failed()) return;
    const std::string_view outer = std::exchange(name_, name);
    get(value);
    if (!failed()) name_ = outer;
  }
  [[nodiscard]] bool failed() const noexcept { return failed_; }
  /// The field at which it failed.
  [[nodiscard]] std::string_view where() const noexcept { return name_; }
  [[nodiscard]] std::size_t left() const noexcept { return bytes_.size(); }

 private:
  [[nodiscard]] bool raw(void* data, std::size_t length) noexcept {
    if (failed_ || length > bytes_.size()) {
      failed_ = true;
      return false;
    }
    if (length != 0) std::memcpy(data, bytes_.data(), length);
    bytes_ = bytes_.subspan(length);
    return true;
  }
  /// A count of things that take at least `least` bytes each: no more of them than there are bytes for.
  [[nodiscard]] std::size_t count(std::size_t least) noexcept {
    std::uint32_t value = 0;
    if (!raw(&value, sizeof value)) return 0;
    if (value > bytes_.size() / least) failed_ = true;
    return failed_ ? 0 : value;
  }
  [[nodiscard]] std::uint8_t byte(std::uint8_t highest) noexcept {
    std::uint8_t value = 0;
    if (raw(&value, 1) && value > highest) failed_ = true;
    return failed_ ? std::uint8_t{0} : value;
  }
  template <Number T>
  void get(T& value) {
    (void)raw(&value, sizeof value);
  }
  void get(bool& value) { value = byte(1) != 0; }
  template <BoundedEnum T>
  void get(T& value) {
    const std::uint8_t number = byte(static_cast<std::uint8_t>(EnumRange<T>::kLast));
    if (number < static_cast<std::uint8_t>(EnumRange<T>::kFirst)) failed_ = true;
    if (!failed_) value = static_cast<T>(number);
  }
  template <AbiStruct T>
  void get(T& value) {
    (void)raw(&value, sizeof value);
  }
  void get(std::string& value) {
    value.resize(count(1));
    (void)raw(value.data(), value.size());
  }
  template <typename T>
  void get(std::vector<T>& values) {
    if constexpr (AbiStruct<T> || Number<T> || std::same_as<T, std::byte>) {
      values.resize(count(sizeof(T)));
      (void)raw(values.data(), values.size() * sizeof(T));
    } else {
      const std::size_t number = count(1);
      values.clear();
      // One at a time: an element is larger in memory than the byte that a hostile count pays for it.
      for (std::size_t i = 0; i < number && !failed_; ++i) get(values.emplace_back());
    }
  }
  template <typename T, std::size_t N>
  void get(std::array<T, N>& values) {
    for (T& value : values) get(value);
  }
  template <typename T>
  void get(std::optional<T>& value) {
    value.reset();
    if (byte(1) != 0) get(value.emplace());
  }
  template <typename T>
    requires(std::is_class_v<T> && !AbiStruct<T>)
  void get(T& value) {
    visit(*this, value);
  }

  std::span<const std::byte> bytes_;
  unsigned version_;
  bool failed_ = false;
  std::string_view name_;
};

}  // namespace mayfly
