#include "files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "sha256.hpp"

namespace spoter::detail {
namespace {

[[noreturn]] void system_error() { throw SystemError{errno, std::strerror(errno)}; }

}  // namespace

File::File(const std::string &path, uint64_t most_bytes)
    : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {
  struct stat found = {};
  if (descriptor_ < 0 && errno == ENXIO) throw SystemError{EINVAL, "not a file"};  // a socket
  if (descriptor_ < 0) system_error();
  if (fstat(descriptor_, &found) || !S_ISREG(found.st_mode)) {
    close(descriptor_);
    throw SystemError{EINVAL, "not a file"};
  }
  left_ = static_cast<uint64_t>(found.st_size);
  if (left_ > most_bytes) {
    close(descriptor_);
    throw SystemError{EFBIG, std::to_string(left_) + " bytes, expected at most " + std::to_string(most_bytes)};
  }
}

File::~File() { close(descriptor_); }

size_t File::read_into(char *buffer, size_t bytes) {
  ssize_t got = 0;
  do got = ::read(descriptor_, buffer, std::min<uint64_t>(bytes, left_));
  while (got < 0 && errno == EINTR);
  if (got < 0) system_error();
  left_ -= static_cast<uint64_t>(got);
  return static_cast<size_t>(got);
}

std::string File::read() {
  std::string content(left_, '\0');
  size_t at = 0;
  while (const size_t got = read_into(content.data() + at, content.size() - at)) at += got;
  content.resize(at);  // it became shorter meanwhile
  return content;
}

std::string File::sha256() {
  constexpr size_t bytes = 1 << 16;
  const std::unique_ptr<char[]> piece(new char[bytes]);
  Sha256 digest;
  while (const size_t got = read_into(piece.get(), bytes)) digest.update({piece.get(), got});
  return digest.hex();
}

bool is_file(const std::string &path) {
  struct stat found = {};
  return stat(path.c_str(), &found) == 0 && S_ISREG(found.st_mode);
}

bool is_folder(const std::string &path) {
  struct stat found = {};
  return stat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode);
}

bool is_there(const std::string &path) {
  struct stat found = {};
  return lstat(path.c_str(), &found) == 0;
}

bool leads_inside(const std::string &folder, const std::string &path) {
  const std::unique_ptr<char, void (*)(void *)> root(realpath(folder.c_str(), nullptr), std::free);
  const std::unique_ptr<char, void (*)(void *)> real(realpath(path.c_str(), nullptr), std::free);
  if (!root || !real) return true;
  const std::string inside = std::string(root.get()) + (std::strcmp(root.get(), "/") == 0 ? "" : "/");
  return (std::string(real.get()) + "/").compare(0, inside.size(), inside) == 0;
}

std::string joined(const std::string &folder, const std::string &name) {
  return folder == "." ? name : folder + (folder.back() == '/' ? "" : "/") + name;
}

std::string tidy(const std::string &path) {
  std::string made;
  for (size_t i = 0; i < path.size();) {
    const size_t end = std::min(path.find('/', i), path.size());
    const std::string part = path.substr(i, end - i);
    if (i == 0 && end == 0) made = "/";
    if (!part.empty() && part != ".") made += (made.empty() || made.back() == '/' ? "" : "/") + part;
    i = end + 1;
  }
  return made.empty() ? "." : made;
}

}  // namespace spoter::detail
