// The floor under the API: cpp-httplib's own server on a Unix socket, with one thread and nothing behind it.
//
//   http_floor SOCKET

#include <httplib.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdio>
#include <limits>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s SOCKET\n", argv[0]);
    return 2;
  }
  httplib::Server server;
  server.new_task_queue = [] { return new httplib::ThreadPool(1); };
  server.set_address_family(AF_UNIX);
  server.set_keep_alive_max_count(std::numeric_limits<std::size_t>::max());
  server.set_keep_alive_timeout(3600);
  server.Get("/", [](const httplib::Request&, httplib::Response& response) {
    response.set_content(
        R"({"id":"anonymous-instance","state":"Not started","vmm_version":"0.1.0","app_name":"Mayfly"})",
        "application/json");
  });
  server.Patch("/vm", [](const httplib::Request&, httplib::Response& response) { response.status = 204; });
  return server.listen(argv[1], 80) ? 0 : 1;  // the port is of no use to a Unix socket
}
