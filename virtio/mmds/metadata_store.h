#pragma once

#include "vmm/base/error.h"
#include "vmm/base/json_value.h"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

/// The metadata itself: one JSON document, which the host writes and the guest reads by path.
///
///   MetadataStore store{limit};
///   if (auto put = store.put(std::move(*json)); !put) return propagate(put);
///   store.get("/latest/meta-data/", MetadataStore::Format::Imds);   // "ami-id\nnetwork/"
///
/// Members are kept, and shown, in the order of their names; of those that are there twice the last one counts. One
/// thread at a time.
namespace mayfly {

class MetadataStore {
 public:
  /// As long as the longest request of the API, unless the operator says otherwise.
  static constexpr std::size_t kDefaultLimit = 51'200;

  enum class Format : std::uint8_t {
    Json,
    Imds,  ///< Plain text: a string as it is, an object as its names, one a line, with '/' behind those of objects.
  };
  enum class Fault : std::uint8_t {
    NotFound,
    Unsupported,  ///< The value is there, but the format has none such.
  };

  /// `limit`: bytes of the document, written as JSON without white space.
  explicit MetadataStore(std::size_t limit = kDefaultLimit) : limit_(limit) {}

  /// Replaces the document. Errors: no object (InvalidArgument), too long (TooLarge); nothing has changed then.
  [[nodiscard]] Status put(JsonValue document);
  /// Changes the document by a JSON merge patch (RFC 7396). Errors as above, and there is no document yet (State).
  [[nodiscard]] Status patch(JsonValue patch);

  /// The document as JSON; an empty object where there is none.
  [[nodiscard]] std::string json() const;
  /// The value at a path such as "/latest/meta-data": names of members or indices of elements, in which "~1" and "~0"
  /// stand for '/' and '~' (RFC 6901). Slashes that are repeated or at the end mean nothing.
  [[nodiscard]] std::expected<std::string, Fault> get(std::string_view path, Format format) const;

 private:
  [[nodiscard]] Status keep(JsonValue document);

  std::size_t limit_;
  JsonValue document_{JsonValue::Object{}};
  bool initialized_ = false;
};

}  // namespace mayfly
