#include "api/config_file.h"
#include "api/http_codec.h"
#include "api/http_framer.h"
#include "api/json_reader.h"
#include "api/responses.h"
#include "tests/unit/api/answer_request.h"

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

/// Bytes of a client: the first says as what they are taken. Whatever they are, an answer is valid JSON with a status
/// that the API knows, and nothing is 500.
namespace mayfly {
namespace {

/// Answers with what it was given, so that the writers run on whatever the readers let through.
class Machine : public CommandTarget {
 public:
  void submit(Command command, Reply reply) override { std::move(reply).give(answer_to(std::move(command))); }
  Result<Answer> answer_to(Command command) {
    VmConfig config;
    if (auto* put = std::get_if<PutCpuConfig>(&command)) config.cpu = std::move(put->value);
    if (auto* put = std::get_if<PutBootSource>(&command)) config.boot_source = std::move(put->value);
    if (auto* put = std::get_if<PutMetrics>(&command)) config.metrics = std::move(put->value);
    if (auto* put = std::get_if<PutLogger>(&command)) config.logger = std::move(put->value);
    if (auto* put = std::get_if<PutSerial>(&command)) config.serial = std::move(put->value);
    if (auto* put = std::get_if<PutDrive>(&command)) config.drives.push_back(std::move(put->value));
    if (auto* put = std::get_if<PutNetworkInterface>(&command))
      config.network_interfaces.push_back(std::move(put->value));
    return config;
  }
};

void check(const ApiResponse& response) {
  const bool known =
      response.status == 200 || response.status == 204 || response.status == 400 || response.status == 404;
  ensure(known, "the status is one of the API's");
  ensure(response.status == 204 || response.body.empty() || parse_json(response.body, "it"),
         "the answer is valid JSON");
}

/// METHOD PATH body, separated by the first two spaces.
void fuzz_request(std::string_view bytes) {
  Machine machine;
  const std::size_t method = bytes.find(' ');
  if (method == std::string_view::npos) return;
  const std::string_view rest = bytes.substr(method + 1);
  const std::size_t path = rest.find(' ');
  if (path == std::string_view::npos) return;
  check(answer_request({bytes.substr(0, method), rest.substr(0, path), rest.substr(path + 1)}, machine));
}

void fuzz_connection(std::string_view bytes) {
  Machine machine;
  HttpFramer framer{{.head = 512, .body = 512}};
  while (!bytes.empty() && framer.state() != HttpFramer::State::Faulty) {
    bytes.remove_prefix(framer.feed(bytes));
    if (framer.state() != HttpFramer::State::Complete) continue;
    const auto request = read_request(framer.take());
    const HttpReply reply =
        request ? write_reply(answer_request({request->method, request->path, request->body}, machine), request->form)
                : request.error();
    ensure(reply.bytes.starts_with("HTTP/1.1 ") && !reply.bytes.starts_with("HTTP/1.1 5"), "no client causes a 500");
    if (reply.close) return;
  }
  if (framer.state() == HttpFramer::State::Faulty) ensure(write_refusal(framer.fault()).close, "a fault closes");
}

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes{reinterpret_cast<const char*>(data) + 1, size - 1};
  switch (data[0] % 3) {
    case 0:
      mayfly::fuzz_request(bytes);
      break;
    case 1:
      mayfly::fuzz_connection(bytes);
      break;
    default: {
      // A template in a file of its own would read the fuzzer's host.
      if (bytes.find("cpu-config") == std::string_view::npos) (void)mayfly::parse_config_file(bytes);
    }
  }
  return 0;
}
