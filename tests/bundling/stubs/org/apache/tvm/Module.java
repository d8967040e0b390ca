package org.apache.tvm;

public class Module extends TVMObject {
    Module() {}

    public native Function getFunction(String name, boolean queryImports);

    public native Function getFunction(String name);
}
