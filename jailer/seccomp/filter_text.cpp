#include "jailer/seccomp/filter_text.h"

#include "vmm/base/text.h"

#include <algorithm>
#include <utility>

namespace mayfly::seccomp {
namespace {

constexpr unsigned kMostArguments = 6;
/// More than any system needs; the parser takes text from anybody.
constexpr std::size_t kLongestText = 1 << 16;

constexpr bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }
constexpr bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

/// What a message shows of somebody's text.
std::string quoted(std::string_view text) {
  std::string shown{text.substr(0, 60)};
  for (char& c : shown)
    if (c < ' ' || c > '~') c = '?';
  return "'" + shown + "'";
}

/// One line, read from left to right.
class LineReader {
 public:
  LineReader(std::string_view text, std::size_t number, const ConstantLookup& constant)
      : rest_(text), number_(number), constant_(constant) {}

  template <typename... Args>
  [[nodiscard]] std::unexpected<Error> refuse(fmt::format_string<Args...> format, Args&&... args) const {
    return fail(ErrorKind::InvalidArgument, "line {}: {}", number_, fmt::format(format, std::forward<Args>(args)...));
  }

  /// Whether nothing but a comment is left.
  [[nodiscard]] bool at_end() {
    skip_space();
    return rest_.empty() || rest_.front() == '#';
  }
  [[nodiscard]] bool take(std::string_view what) {
    skip_space();
    if (!rest_.starts_with(what)) return false;
    rest_.remove_prefix(what.size());
    return true;
  }
  [[nodiscard]] std::string_view word() {
    skip_space();
    const auto end = std::ranges::find_if_not(rest_, is_word);
    const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(end - rest_.begin()));
    rest_.remove_prefix(taken.size());
    return taken;
  }
  [[nodiscard]] std::string_view rest() {
    skip_space();
    return rest_;
  }

  [[nodiscard]] Result<Entry> entry();
  /// "[name] made by other", "[name] on other"
  [[nodiscard]] Result<ThreadFilter> header();

 private:
  void skip_space() {
    while (!rest_.empty() && is_space(rest_.front())) rest_.remove_prefix(1);
  }
  [[nodiscard]] Result<std::vector<Condition>> arguments();
  [[nodiscard]] Result<std::optional<Condition>> argument(unsigned index);
  [[nodiscard]] Result<std::uint64_t> value();
  [[nodiscard]] Result<std::uint64_t> term();

  std::string_view rest_;
  std::size_t number_;
  const ConstantLookup& constant_;
};

Result<std::uint64_t> LineReader::term() {
  const std::string_view text = word();
  if (text.empty()) return refuse("a constant or a number is missing before {}", quoted(rest_));
  if (text.front() < '0' || text.front() > '9') {
    const auto known = constant_(text);
    if (!known)
      return refuse("the constant {} is not known; write its number, or add it to jailer/seccomp/constants.cpp",
                    quoted(text));
    return *known;
  }
  const bool hexadecimal = text.starts_with("0x");
  const auto number = whole_number<std::uint64_t>(text.substr(hexadecimal ? 2 : 0), hexadecimal ? 16 : 10);
  if (!number) return refuse("{} is no number of 64 bits; write it as 12 or 0xc", quoted(text));
  return *number;
}

Result<std::uint64_t> LineReader::value() {
  std::uint64_t all = 0;
  do {
    auto one = term();
    if (!one) return one;
    all |= *one;
  } while (take("|"));
  return all;
}

Result<std::optional<Condition>> LineReader::argument(unsigned index) {
  const LineReader before = *this;
  const std::string_view first = word();
  if (first == "_") return std::nullopt;
  if (first == "own-process") return Condition{.argument = index, .kind = Condition::Kind::OwnProcess};
  const bool within = first == "within";
  if (!within) rest_ = before.rest_;
  auto wanted = value();
  if (!wanted) return propagate(wanted);
  return Condition{
      .argument = index, .kind = within ? Condition::Kind::Within : Condition::Kind::Equals, .value = *wanted};
}

Result<std::vector<Condition>> LineReader::arguments() {
  std::vector<Condition> conditions;
  unsigned index = 0;
  do {
    if (index == kMostArguments) return refuse("a system call has at most {} arguments", kMostArguments);
    auto condition = argument(index);
    if (!condition) return propagate(condition);
    if (*condition) conditions.push_back(**condition);
    ++index;
  } while (take(","));
  if (!take(")")) return refuse("')' or ',' is missing before {}", quoted(rest()));
  return conditions;
}

Result<Entry> LineReader::entry() {
  Entry made;
  made.line = number_;
  made.call = word();
  if (made.call.empty()) return refuse("{} is no system call's name", quoted(rest()));
  if (take("(")) {
    auto conditions = arguments();
    if (!conditions) return propagate(conditions);
    made.conditions = std::move(*conditions);
  }
  if (take("->")) {
    auto answer = term();
    if (!answer) return propagate(answer);
    if (*answer == 0 || *answer > 4095) return refuse("the answer {} is no error number (1 to 4095)", *answer);
    made.answer = static_cast<int>(*answer);
  }
  if (take("rare:")) {
    if (at_end()) return refuse("'rare:' wants a reason why no test makes this call");
    made.rare = true;
    return made;  // the reason goes on to the line's end
  }
  if (!at_end()) return refuse("{} is too much; a comment begins with '#'", quoted(rest()));
  return made;
}

Result<ThreadFilter> LineReader::header() {
  ThreadFilter made;
  made.name = word();
  if (made.name.empty() || !take("]")) return refuse("a section begins as in '[vcpu]'");
  if (at_end()) return made;
  const std::string_view first = word();
  if (first == "as") {
    while (!at_end()) {
      made.as.emplace_back(word());
      if (made.as.back().empty()) return refuse("'as' wants the names of filters");
    }
    if (made.as.empty()) return refuse("'as' wants the names of filters");
    return made;
  }
  const bool is_made = first == "made" && word() == "by";
  if (!is_made && first != "on")
    return refuse("after '[{}]' only 'made by THREAD', 'on THREAD' or 'as FILTER' can follow", made.name);
  made.under = word();
  const bool has_as = !is_made && !made.under.empty() && !at_end();
  if (has_as && word() != "as") return refuse("after '[{}] on {}' only 'as FILTER' can follow", made.name, made.under);
  do {
    if (has_as) made.as.emplace_back(word());
    if (has_as && made.as.back().empty()) return refuse("'as' wants the names of filters");
  } while (has_as && !at_end());
  if (made.under.empty() || !at_end()) return refuse("'{}' wants one thread's name", is_made ? "made by" : "on");
  return made;
}

/// Whether everything that `narrow` lets through `wide` does.
bool covers(const Entry& wide, const Entry& narrow) {
  if (wide.call != narrow.call || wide.answer != narrow.answer) return false;
  return std::ranges::all_of(wide.conditions, [&](const Condition& wanted) {
    return std::ranges::any_of(narrow.conditions, [&](const Condition& given) {
      if (given.argument != wanted.argument) return false;
      if (given == wanted) return true;
      return wanted.kind == Condition::Kind::Within && given.kind != Condition::Kind::OwnProcess &&
             (given.value & ~wanted.value) == 0;
    });
  });
}

const Entry* covering(const std::vector<Entry>& entries, const Entry& entry) {
  const auto found = std::ranges::find_if(entries, [&](const Entry& each) { return covers(each, entry); });
  return found == entries.end() ? nullptr : &*found;
}

/// Null where there is none.
const ThreadFilter* filter_named(const FilterText& text, std::string_view name) {
  const auto found = std::ranges::find(text.threads, name, &ThreadFilter::name);
  return found == text.threads.end() ? nullptr : &*found;
}

/// Whether no call is let through by both.
bool are_apart(const Entry& one, const Entry& other) {
  if (one.call != other.call) return true;
  const auto excludes = [](const Condition& a, const Condition& b) {
    if (a.argument != b.argument || a.kind != Condition::Kind::Equals) return false;
    if (b.kind == Condition::Kind::Equals) return a.value != b.value;
    return b.kind == Condition::Kind::Within && (a.value & ~b.value) != 0;
  };
  return std::ranges::any_of(one.conditions, [&](const Condition& a) {
    return std::ranges::any_of(other.conditions, [&](const Condition& b) { return excludes(a, b) || excludes(b, a); });
  });
}

bool names_own_process(const Entry& entry) {
  return std::ranges::any_of(entry.conditions,
                             [](const Condition& each) { return each.kind == Condition::Kind::OwnProcess; });
}

/// `of_every`: `before` is [every]'s lines, of which a section may let a thread do more.
/// A line that does nothing hides a mistake; an answer must be the only word on its call.
Status check_new(const LineReader& reader, const std::vector<Entry>& before, const Entry& entry,
                 bool of_every = false) {
  for (const Entry& each : before) {
    if (each.call != entry.call) continue;
    // A section may let a thread reach processes that others may not.
    if (of_every && names_own_process(each) && !names_own_process(entry)) continue;
    if (covers(each, entry))
      return reader.refuse("line {} lets this {} through already; remove one of them", each.line, entry.call);
    if (covers(entry, each))
      return reader.refuse("this {} makes line {} needless; remove one of them", entry.call, each.line);
    if (each.answer != entry.answer)
      return reader.refuse("{} has another outcome in line {}; a call has one", entry.call, each.line);
  }
  return {};
}

/// A line of another filter that stands here as well would do nothing. Only filters above: so none is its own.
Status check_as(const FilterText& text, const ThreadFilter& thread) {
  for (const std::string& name : thread.as) {
    const ThreadFilter* const other = filter_named(text, name);
    if (other == nullptr || (!thread.under.empty() && other->under != thread.under) || other >= &thread)
      return fail(ErrorKind::InvalidArgument, "[{}] is as {}, which is no filter{}{} above it", thread.name, name,
                  thread.under.empty() ? "" : " on ", thread.under);
    for (const Entry& entry : thread.entries)
      if (const Entry* const there = covering(other->entries, entry))
        return fail(ErrorKind::InvalidArgument,
                    "line {}: line {} of [{}] lets this {} through already; remove one of them", entry.line,
                    there->line, name, entry.call);
  }
  return {};
}

/// The filters that a filter is as, those that they are as, and so on: each once.
std::vector<const ThreadFilter*> all_as(const FilterText& text, const ThreadFilter& thread) {
  std::vector<const ThreadFilter*> all;
  const auto add = [&](const ThreadFilter& of) {
    for (const std::string& name : of.as)
      if (const ThreadFilter* const other = filter_named(text, name); std::ranges::find(all, other) == all.end())
        all.push_back(other);
  };
  add(thread);
  for (std::size_t i = 0; i < all.size(); ++i)
    if (all[i] != nullptr) add(*all[i]);
  std::erase(all, nullptr);
  return all;
}

Status check_layers(const FilterText& text) {
  for (const ThreadFilter& thread : text.threads) {
    if (thread.under.empty()) {
      if (auto checked = check_as(text, thread); !checked) return checked;
      continue;
    }
    const ThreadFilter* const under = filter_named(text, thread.under);
    if (under == nullptr)
      return fail(ErrorKind::InvalidArgument, "[{}] comes on top of {}, which has no section; add [{}]", thread.name,
                  thread.under, thread.under);
    if (!under->under.empty())
      return fail(ErrorKind::InvalidArgument,
                  "[{}] comes on top of {}, which is on top of another itself; only one step is understood",
                  thread.name, thread.under);
    if (auto checked = check_as(text, thread); !checked) return checked;
  }
  return {};
}

}  // namespace

Result<FilterText> parse_filters(std::string_view text, const ConstantLookup& constant) {
  if (text.size() > kLongestText)
    return fail(ErrorKind::TooLarge, "the text has {} bytes; {} are allowed", text.size(), kLongestText);
  FilterText all;
  std::vector<Entry>* section = nullptr;
  bool had_every = false;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    LineReader reader{text.substr(0, end), number, constant};
    text.remove_prefix(std::min(end + 1, text.size()));
    if (reader.at_end()) continue;
    if (reader.take("[")) {
      auto header = reader.header();
      if (!header) return propagate(header);
      if (header->name == "every") {
        if (std::exchange(had_every, true) || !all.threads.empty() || !header->under.empty())
          return reader.refuse("[every] comes first, once, and on top of nothing");
        section = &all.every;
        continue;
      }
      if (std::ranges::find(all.threads, header->name, &ThreadFilter::name) != all.threads.end())
        return reader.refuse("[{}] has a section already; put the lines there", header->name);
      all.threads.push_back(std::move(*header));
      section = &all.threads.back().entries;
      continue;
    }
    auto entry = reader.entry();
    if (!entry) return propagate(entry);
    if (section == nullptr) return reader.refuse("a section such as [every] or [loop] must come first");
    if (section != &all.every)
      if (auto checked = check_new(reader, all.every, *entry, true); !checked) return propagate(checked);
    if (auto checked = check_new(reader, *section, *entry); !checked) return propagate(checked);
    section->push_back(std::move(*entry));
  }
  if (all.threads.empty()) return fail(ErrorKind::InvalidArgument, "there is no section of a thread, such as [loop]");
  if (auto checked = check_layers(all); !checked) return propagate(checked);
  return all;
}

std::vector<Entry> entries_of(const FilterText& text, const ThreadFilter& thread) {
  std::vector<Entry> all = text.every;
  const auto add = [&all](const std::vector<Entry>& more) {
    for (const Entry& entry : more) {
      if (covering(all, entry) != nullptr) continue;
      std::erase_if(all, [&](const Entry& each) { return covers(entry, each); });
      all.push_back(entry);
    }
  };
  add(thread.entries);
  for (const ThreadFilter* const other : all_as(text, thread)) add(other->entries);
  for (const ThreadFilter& other : text.threads)
    if (other.under == thread.name) add(other.entries);
  return all;
}

std::optional<std::vector<Entry>> withdrawn_by(const FilterText& text, const ThreadFilter& thread) {
  const ThreadFilter* const below = filter_named(text, thread.under);
  if (below == nullptr) return std::nullopt;
  const std::vector<Entry> kept = entries_of(text, thread);
  std::vector<Entry> withdrawn;
  for (Entry& entry : entries_of(text, *below)) {
    if (covering(kept, entry) != nullptr) continue;
    // Of a call that is not kept at all, no argument need be looked at: the filter below has looked.
    if (std::ranges::find(kept, entry.call, &Entry::call) == kept.end()) {
      if (std::ranges::find(withdrawn, entry.call, &Entry::call) != withdrawn.end()) continue;
      entry.conditions.clear();
    }
    if (!std::ranges::all_of(kept, [&](const Entry& each) { return are_apart(entry, each); })) return std::nullopt;
    withdrawn.push_back(std::move(entry));
  }
  return withdrawn;
}

}  // namespace mayfly::seccomp
