// TVM's functions, called through the C interface of tvm_ffi alone. Its C++ interface throws exceptions from the library into the caller, which
// only works where both were built with the same standard library.
#pragma once

#include <tvm/ffi/c_api.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace tvm_c {

// The error that TVM has set aside.
inline std::runtime_error raised() {
  TVMFFIObjectHandle error = nullptr;
  TVMFFIErrorMoveFromRaised(&error);
  if (!error) return std::runtime_error("TVM failed and does not say why");
  const TVMFFIByteArray& text = TVMFFIErrorGetCellPtr(error)->message;
  std::runtime_error result(std::string(text.data, text.size));
  TVMFFIObjectDecRef(error);
  return result;
}

// What functions take and return: a number, a text (which must outlive it), or a counted reference to an object.
class Value {
 public:
  Value() = default;
  Value(int number) {
    any_.type_index = kTVMFFIInt;
    any_.v_int64 = number;
  }
  Value(const char* text) {
    any_.type_index = kTVMFFIRawStr;
    any_.v_c_str = text;
  }
  Value(TVMFFITypeIndex type, TVMFFIObjectHandle object) {  // takes over the reference
    any_.type_index = type;
    any_.v_obj = static_cast<TVMFFIObject*>(object);
  }
  Value(const Value& other) : any_(other.any_) {
    if (is_object()) TVMFFIObjectIncRef(any_.v_obj);
  }
  Value(Value&& other) noexcept { std::swap(any_, other.any_); }
  Value& operator=(Value other) noexcept {
    std::swap(any_, other.any_);
    return *this;
  }
  ~Value() {
    if (is_object()) TVMFFIObjectDecRef(any_.v_obj);
  }

  Value operator()(const std::vector<Value>& arguments) const {
    if (any_.type_index != kTVMFFIFunction) throw std::runtime_error("not a function of TVM");
    Value result;
    TVMFFIAny* first = arguments.empty() ? nullptr : const_cast<TVMFFIAny*>(&arguments.data()->any_);
    if (TVMFFIFunctionCall(any_.v_obj, first, static_cast<int>(arguments.size()), &result.any_)) throw raised();
    return result;
  }

  bool is_tensor() const { return any_.type_index == kTVMFFITensor; }
  int number() const { return static_cast<int>(any_.v_int64); }
  const DLTensor& tensor() const {
    if (!is_tensor()) throw std::runtime_error("not a tensor of TVM");
    return *TVMFFITensorGetDLTensorPtr(any_.v_obj);
  }

 private:
  bool is_object() const { return any_.type_index >= kTVMFFIStaticObjectBegin; }
  TVMFFIAny any_{};
};
static_assert(sizeof(Value) == sizeof(TVMFFIAny), "arguments are passed as an array of TVMFFIAny");

// A function that TVM registers by name.
inline Value global(const std::string& name) {
  TVMFFIByteArray text{name.data(), name.size()};
  TVMFFIObjectHandle function = nullptr;
  if (TVMFFIFunctionGetGlobal(&text, &function)) throw raised();
  if (!function) throw std::runtime_error("this runtime of TVM has no " + name);
  return Value(kTVMFFIFunction, function);
}

// A function of a module.
inline Value member(const Value& module, const std::string& name) { return global("ffi.ModuleGetFunction")({module, name.c_str(), 0}); }

// What a function returned, one tensor or several, as a list.
inline std::vector<Value> tensors(const Value& result) {
  if (result.is_tensor()) return {result};
  static const Value size = global("ffi.ArraySize"), item = global("ffi.ArrayGetItem");
  std::vector<Value> found;
  for (int i = 0, count = size({result}).number(); i < count; ++i) found.push_back(item({result, i}));
  return found;
}

// A tensor of memory that outlives it.
inline Value view(void* data, std::vector<int64_t>& shape, DLDataType dtype) {
  auto* managed = new DLManagedTensor{};
  managed->dl_tensor = DLTensor{data, {kDLCPU, 0}, static_cast<int32_t>(shape.size()), dtype, shape.data(), nullptr, 0};
  managed->deleter = [](DLManagedTensor* self) { delete self; };
  TVMFFIObjectHandle tensor = nullptr;
  if (TVMFFITensorFromDLPack(managed, 0, 1, &tensor)) throw raised();
  return Value(kTVMFFITensor, tensor);
}

}  // namespace tvm_c
