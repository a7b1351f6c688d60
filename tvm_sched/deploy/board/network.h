// The network of a bundle: what network.txt tells of it, loading it, and calls of it with arrays by name.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "machine.h"
#include "npz.h"
#include "tvm.h"

namespace bundle {

// An input or an output, as network.txt tells: name, type, a number (of an input the least that its example holds, of an output the largest error), and
// its extents.
struct Tensor {
  std::string name, dtype;
  double number = 0;
  std::vector<int64_t> shape;

  size_t bytes() const { return npy::volume(shape) * npy::width(dtype); }
  std::string told() const { return npy::words(shape) + " of " + dtype; }
};

// network.txt: a key and its words a line.
class Description {
 public:
  explicit Description(const std::string& path) {
    const std::vector<char> bytes = npy::content(path);
    const std::string all(bytes.begin(), bytes.end());
    // The last line is the checksum of those before it.
    const size_t end = all.rfind("\nchecksum ") + 1;
    std::istringstream file(all.substr(0, end));
    for (std::string line; std::getline(file, line);) {
      std::istringstream text(line);
      std::string key;
      std::vector<std::string> words;
      text >> key;
      for (std::string word; text >> word;) words.push_back(word);
      lines_.emplace_back(key, words);
    }
    if (text("format") != "3" || all.substr(end) != "checksum " + std::to_string(npz::crc32(all.data(), end)) + "\n")
      throw std::runtime_error(path + " is damaged, or of another version: unpack the bundle again");
  }
  std::vector<std::string> words(const std::string& key) const {
    for (const auto& [each, words] : lines_)
      if (each == key) return words;
    return {};
  }
  std::string text(const std::string& key) const { return words(key).empty() ? "" : words(key)[0]; }
  // A whole number of a line, which a hostile file may make any.
  size_t number(const std::string& key, size_t least, size_t most) const {
    const std::string word = text(key);
    const bool digits = !word.empty() && word.size() < 10 && word.find_first_not_of("0123456789") == std::string::npos;
    const size_t value = digits ? std::stoul(word) : 0;
    if (!digits || value < least || value > most) throw std::runtime_error("network.txt has no such " + key + " as networks have: unpack the bundle again");
    return value;
  }
  // Those of the lines "input ..." or "output ...", in order.
  std::vector<Tensor> tensors(const std::string& key) const {
    std::vector<Tensor> found;
    for (const auto& [each, words] : lines_) {
      if (each != key) continue;
      const std::string wrong = "network.txt has a damaged line of an " + key + ": unpack the bundle again";
      if (words.size() < 3 || !npy::is_number(words[1])) throw std::runtime_error(wrong);
      Tensor tensor{words[0], words[1], std::atof(words[2].c_str()), {}};
      for (size_t i = 3; i < words.size(); ++i) tensor.shape.push_back(std::strtoll(words[i].c_str(), nullptr, 10));
      if (!npy::has_size(tensor.shape, tensor.dtype)) throw std::runtime_error(wrong);
      found.push_back(tensor);
    }
    return found;
  }

 private:
  std::vector<std::pair<std::string, std::vector<std::string>>> lines_;
};

constexpr char KINDS[] = "iuf?V?b";  // of NumPy's types, by DLPack's codes

inline DLDataType dlpack(const std::string& dtype) {
  const auto code = static_cast<uint8_t>(std::strchr(KINDS, dtype[1]) - KINDS);
  return {code, static_cast<uint8_t>(8 * npy::width(dtype)), 1};
}

// A network in memory, ready to be called.
class Network {
 public:
  Network(const std::string& library, const Description& about, int threads)
      : parts_(about.number("parts", 1, 1u << 20)), inputs_(about.tensors("input")), outputs_(about.tensors("output")) {
    for (const std::vector<Tensor>* each : {&inputs_, &outputs_})
      for (const Tensor& tensor : *each)
        if (parts_ > 1 && (tensor.shape.empty() || tensor.shape[0] % static_cast<int64_t>(parts_)))
          throw std::runtime_error("network.txt has parts that do not divide '" + tensor.name + "': unpack the bundle again");
    require_whole(library, about);
    tvm_c::global("runtime.config_threadpool")({0, threads});
    machine_ = tvm_c::member(loaded(library), "vm_load_executable")({});
    constexpr int pooled = 2;  // TVM's kind of allocator
    tvm_c::member(machine_, "vm_initialization")({int{kDLCPU}, 0, pooled});

    for (Tensor& input : inputs_) {
      if (parts_ > 1) input.shape[0] /= static_cast<int64_t>(parts_);
      buffers_.push_back(buffer_of(input));
      arguments_.push_back(tvm_c::view(buffers_.back().get(), input.shape, dlpack(input.dtype)));
    }
    if (std::string prepare = about.text("prepare"); !prepare.empty())
      for (tvm_c::Value& each : tvm_c::tensors(tvm_c::member(machine_, prepare)({}))) arguments_.push_back(std::move(each));
    main_ = tvm_c::member(machine_, "main");
    main_(arguments_);  // takes its memory
    if (about.number("huge_pages", 0, 1)) machine::huge_pages();
  }

  // Calls `take` with what each part of the batch becomes, before the next is computed. inputs: one array each, in order.
  template <typename Take>
  void each_part(const npz::Arrays& inputs, Take take) {
    for (size_t part = 0; part < parts_; ++part) {
      for (size_t i = 0; i < inputs_.size(); ++i)
        std::memcpy(buffers_[i].get(), inputs[i].second.bytes.data() + part * inputs_[i].bytes(), inputs_[i].bytes());
      take(main_(arguments_));
    }
  }

  // The outputs, of whole batches, by name.
  npz::Arrays operator()(const npz::Arrays& inputs) {
    npz::Arrays outputs;
    for (const Tensor& output : outputs_) outputs.emplace_back(output.name, npy::Array{output.shape, output.dtype, {}});
    each_part(inputs, [&](const tvm_c::Value& result) {
      const std::vector<tvm_c::Value> tensors = tvm_c::tensors(result);
      for (size_t i = 0; i < outputs.size(); ++i) {
        const DLTensor& tensor = tensors.at(i).tensor();
        const char* start = static_cast<const char*>(tensor.data) + tensor.byte_offset;
        size_t size = tensor.dtype.bits / 8u;
        for (int axis = 0; axis < tensor.ndim; ++axis) size *= static_cast<size_t>(tensor.shape[axis]);
        if (size != outputs_[i].bytes() / parts_)
          throw std::runtime_error("network.txt tells of another output '" + outputs_[i].name + "' than the network gives: unpack the bundle again");
        std::vector<char>& bytes = outputs[i].second.bytes;
        bytes.insert(bytes.end(), start, start + size);
      }
    });
    return outputs;
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  using Buffer = std::unique_ptr<char, Free>;

  // Loading runs code in the library: not one that was damaged on its way.
  static void require_whole(const std::string& library, const Description& about) {
    const std::vector<char> bytes = npy::content(library);
    if (about.text("library") != std::to_string(npz::crc32(bytes.data(), bytes.size())))
      throw std::runtime_error(library + " is damaged: its checksum is wrong; unpack the bundle again");
  }

  static tvm_c::Value loaded(const std::string& library) {
    const machine::Quiet quiet;
    return tvm_c::global("ffi.ModuleLoadFromFile")({library.c_str()});
  }

  // Memory for an input, which holds the least value of its example: an index that is valid.
  static Buffer buffer_of(const Tensor& input) {
    constexpr size_t alignment = 64;
    Buffer buffer(static_cast<char*>(std::aligned_alloc(alignment, (input.bytes() / alignment + 1) * alignment)));
    std::memset(buffer.get(), 0, input.bytes());
    constexpr double most = 9e18;
    const auto whole = std::fabs(input.number) < most ? static_cast<int64_t>(input.number) : 0;  // whose first bytes are those of a shorter number
    const size_t width = npy::width(input.dtype);
    for (size_t at = 0; whole && at < input.bytes(); at += width) std::memcpy(buffer.get() + at, &whole, width);
    return buffer;
  }

  size_t parts_;
  std::vector<Tensor> inputs_, outputs_;  // inputs of a part, outputs of the batch
  std::vector<Buffer> buffers_;
  tvm_c::Value machine_, main_;
  std::vector<tvm_c::Value> arguments_;
};

inline bool ends_in(const std::string& text, const std::string& end) { return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0; }

inline std::string names(const std::vector<Tensor>& tensors) {
  std::string text;
  for (const Tensor& tensor : tensors) text += (text.empty() ? "" : ", ") + tensor.name;
  return text;
}

// The arrays of a file for each of the inputs, in order.
inline npz::Arrays read_inputs(const std::string& path, const std::vector<Tensor>& inputs) {
  npz::Arrays found, given;
  if (ends_in(path, ".npz")) {
    given = npz::read(path);
  } else {
    npy::Array array = npy::read(path);
    if (inputs.size() != 1) throw std::runtime_error("the network takes " + std::to_string(inputs.size()) + " inputs (" + names(inputs) + "): give them by these names in a .npz file");
    given.emplace_back(inputs[0].name, std::move(array));
  }
  for (const auto& each : given)
    if (std::none_of(inputs.begin(), inputs.end(), [&](const Tensor& input) { return input.name == each.first; }))
      throw std::runtime_error(path + " holds '" + each.first + "', which is no input of the network; it takes " + names(inputs));
  for (const Tensor& input : inputs) {
    auto at = std::find_if(given.begin(), given.end(), [&](const auto& each) { return each.first == input.name; });
    if (at == given.end()) throw std::runtime_error(path + " lacks the input '" + input.name + "'; the network takes " + names(inputs));
    const Tensor held{input.name, at->second.dtype, 0, at->second.shape};
    if (held.shape != input.shape || held.dtype.substr(1) != input.dtype.substr(1))
      throw std::runtime_error(path + " holds an array of " + held.told() + ", the network takes " + input.told() + " as its input '" + input.name + "'");
    found.push_back(std::move(*at));
  }
  return found;
}

}  // namespace bundle
