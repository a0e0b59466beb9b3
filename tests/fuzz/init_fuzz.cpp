// Any text as the kernel's command line that a guest's init reads: what it hands out lies within the line, and an order
// that init gives itself is understood. And as the file that says how an image is run.

#include "rootfs-tools/init/orders.h"
#include "rootfs-tools/init/run_file.h"
#include "tests/fuzz/must.h"

#include <cstdint>
#include <string>

using mayfly::must;

namespace {

using namespace mayfly::guest_init;

bool within(std::string_view part, std::string_view whole) {
  return part.empty() || (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

/// Its texts lie within the file, and end there.
void read_as_run_file(std::string_view text) {
  RunFile run;
  const auto wrong = parse_run_file(text, run);
  must(run.argument_count <= kMostRunWords && run.environment_count <= kMostRunWords);
  must(run.group_count <= kMostRunGroups);
  for (const auto* list : {&run.arguments, &run.environment})
    for (std::size_t i = 0; (*list)[i] != nullptr; ++i) must(within((*list)[i], text));
  must(wrong.has_value() || text.starts_with(kRunFileMark));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view line{reinterpret_cast<const char*>(data), size};
  read_as_run_file(line);
  const Orders orders = parse_orders(line);
  must(within(orders.run, line) && within(orders.unknown_end, line));
  must(within(orders.image, line) && within(orders.overlay, line));
  must(within(orders.hostname, line) && within(orders.nameserver, line));
  must(!end_named(orders.unknown_end));
  std::size_t words = 0;
  std::string_view rest = line;
  while (const auto parameter = take_parameter(rest)) {
    must(within(parameter->name, line) && within(parameter->value, line));
    must(parameter->name.find('=') == std::string_view::npos);
    must(++words <= size);
  }
  must(rest.empty());
  // As the kernel would be told it, it is understood whatever stands before: quotes that are open end with the line.
  if (line.find('"') != std::string_view::npos) return 0;
  const std::string told = "mayfly.run=\"" + std::string{line} + "\" mayfly.end=halt";
  const Orders again = parse_orders(told);
  must(again.run == line && again.end == End::halt);
  return 0;
}
