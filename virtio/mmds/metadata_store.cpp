#include "virtio/mmds/metadata_store.h"

#include "vmm/base/text.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <utility>

namespace mayfly {
namespace {

using Object = JsonValue::Object;
using Array = JsonValue::Array;

// Everything here recurses as deep as a document is, which the parser has limited.

/// Puts the members of all objects in order of their names, and leaves the last of those of one name.
void normalize(JsonValue& value) {  // NOLINT(misc-no-recursion)
  if (auto* array = std::get_if<Array>(&value.data))
    for (JsonValue& element : *array) normalize(element);
  auto* object = std::get_if<Object>(&value.data);
  if (object == nullptr) return;
  std::map<std::string, JsonValue> members;
  for (JsonMember& member : *object) members.insert_or_assign(std::move(member.name), std::move(member.value));
  object->clear();
  while (!members.empty()) {
    auto first = members.extract(members.begin());
    object->push_back({std::move(first.key()), std::move(first.mapped())});
  }
  for (JsonMember& member : *object) normalize(member.value);
}

/// RFC 7396, section 2; both are in order.
JsonValue merged(JsonValue target, JsonValue patch) {  // NOLINT(misc-no-recursion)
  auto* changes = std::get_if<Object>(&patch.data);
  if (changes == nullptr) return patch;
  if (!std::holds_alternative<Object>(target.data)) target.data = Object{};
  auto& members = std::get<Object>(target.data);
  Object result;
  auto member = members.begin();
  for (JsonMember& change : *changes) {
    for (; member != members.end() && member->name < change.name; ++member) result.push_back(std::move(*member));
    JsonValue before{nullptr};
    if (member != members.end() && member->name == change.name) before = std::move((member++)->value);
    if (!std::holds_alternative<std::nullptr_t>(change.value.data))
      result.push_back({std::move(change.name), merged(std::move(before), std::move(change.value))});
  }
  std::move(member, members.end(), std::back_inserter(result));
  return {std::move(result)};
}

/// RFC 6901, section 4: a reference token of a pointer.
std::optional<std::string> unescaped(std::string_view token) {
  std::string name;
  while (!token.empty()) {
    if (token.front() != '~') {
      name += token.front();
      token.remove_prefix(1);
      continue;
    }
    if (!token.starts_with("~0") && !token.starts_with("~1")) return std::nullopt;
    name += token[1] == '0' ? '~' : '/';
    token.remove_prefix(2);
  }
  return name;
}

const JsonValue* step(const JsonValue& from, std::string_view token) {
  if (const auto* object = std::get_if<Object>(&from.data)) {
    const auto name = unescaped(token);
    if (!name) return nullptr;
    const auto found = std::ranges::lower_bound(*object, *name, {}, &JsonMember::name);
    return found != object->end() && found->name == *name ? &found->value : nullptr;
  }
  const auto* array = std::get_if<Array>(&from.data);
  if (array == nullptr || (token.size() > 1 && token.front() == '0')) return nullptr;
  const auto index = whole_number<std::size_t>(token);
  return index && *index < array->size() ? &(*array)[*index] : nullptr;
}

std::string listing(const Object& object) {
  std::string text;
  for (const JsonMember& member : object) {
    if (&member != object.data()) text += '\n';
    text += member.name;
    if (std::holds_alternative<Object>(member.value.data)) text += '/';
  }
  return text;
}

}  // namespace

Status MetadataStore::put(JsonValue document) {
  if (!std::holds_alternative<Object>(document.data))
    return fail(ErrorKind::InvalidArgument, "metadata must be a JSON object");
  normalize(document);
  return keep(std::move(document));
}

Status MetadataStore::patch(JsonValue patch) {
  if (!initialized_) return fail(ErrorKind::State, "there is no metadata to change yet; PUT /mmds creates it");
  if (!std::holds_alternative<Object>(patch.data))
    return fail(ErrorKind::InvalidArgument, "a patch of metadata must be a JSON object");
  normalize(patch);
  return keep(merged(document_, std::move(patch)));
}

Status MetadataStore::keep(JsonValue document) {
  if (const std::size_t size = to_json(document).size(); size > limit_) {
    return fail(ErrorKind::TooLarge, "metadata may have {} bytes, and this would be {}; --mmds-size-limit allows more",
                limit_, size);
  }
  document_ = std::move(document);
  initialized_ = true;
  return {};
}

std::string MetadataStore::json() const { return to_json(document_); }

std::expected<std::string, MetadataStore::Fault> MetadataStore::get(std::string_view path, Format format) const {
  const JsonValue* value = initialized_ ? &document_ : nullptr;
  while (value != nullptr && !path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    if (end > 0) value = step(*value, path.substr(0, end));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  if (value == nullptr) return std::unexpected(Fault::NotFound);
  if (format == Format::Json) return to_json(*value);
  if (const auto* object = std::get_if<Object>(&value->data)) return listing(*object);
  if (const auto* text = std::get_if<std::string>(&value->data)) return *text;
  return std::unexpected(Fault::Unsupported);
}

}  // namespace mayfly
