#pragma once

#include "vmm/boot/table_bytes.h"

#include <cstdint>
#include <initializer_list>
#include <string_view>

/// ACPI machine language, as much of it as Mayfly's DSDT speaks (ACPI 6.5, chapter 20). Each function returns the bytes
/// of one term; terms nest:
///
///   aml::device("COM1", {aml::name("_HID", aml::eisa_id("PNP0501")),
///                        aml::name("_CRS", aml::resources({aml::io_ports(0x3F8, 8), aml::interrupt(4)}))})
///
/// Arguments are constants of ours: names have four characters, strings no NUL. Pure.
namespace mayfly::aml {

using Terms = std::initializer_list<TableBytes>;

/// An integer, in the shortest encoding (20.2.3).
[[nodiscard]] TableBytes integer(std::uint64_t value);
/// An ASCII string (20.2.3).
[[nodiscard]] TableBytes string(std::string_view text);
/// A plug-and-play id as "PNP0501": three letters and four hexadecimal digits, as a number (19.6.37).
[[nodiscard]] TableBytes eisa_id(std::string_view id);
/// Package (elements...) (20.2.5.4).
[[nodiscard]] TableBytes package(Terms elements);

/// Name (segment, value) (20.2.5.1).
[[nodiscard]] TableBytes name(std::string_view segment, const TableBytes& value);
/// Scope (\segment) { terms } (20.2.5.1).
[[nodiscard]] TableBytes root_scope(std::string_view segment, const TableBytes& terms);
/// Device (segment) { terms } (20.2.5.2).
[[nodiscard]] TableBytes device(std::string_view segment, Terms terms);
/// Method (segment, arguments, Serialized) { terms } (20.2.5.2).
[[nodiscard]] TableBytes method(std::string_view segment, unsigned arguments, Terms terms);
/// Notify (segment, value), the name searched upwards from the caller's scope (20.2.5.3, 5.3).
[[nodiscard]] TableBytes notify(std::string_view segment, std::uint8_t value);

/// ResourceTemplate () { descriptors } with its end tag (6.4, 19.6.112).
[[nodiscard]] TableBytes resources(Terms descriptors);
/// Memory32Fixed (ReadWrite, base, size) (6.4.3.4).
[[nodiscard]] TableBytes memory_window(std::uint32_t base, std::uint32_t size);
/// IO (Decode16, first, first, 1, count) (6.4.2.5).
[[nodiscard]] TableBytes io_ports(std::uint16_t first, std::uint8_t count);
/// Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { gsi } (6.4.3.6).
[[nodiscard]] TableBytes interrupt(std::uint32_t gsi);

}  // namespace mayfly::aml
