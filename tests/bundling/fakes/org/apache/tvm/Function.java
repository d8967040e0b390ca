package org.apache.tvm;

import java.util.ArrayList;
import java.util.List;

/**
 * Like tvm4j's, it takes its arguments one by one, and they are those of the thread that pushes them. That of a module
 * keeps the module in memory until it is released.
 */
public class Function {
    public interface Callback {
        Object invoke(TVMValue... args);
    }

    private final ThreadLocal<List<TVMValue>> pushed = ThreadLocal.withInitial(ArrayList::new);
    private final Callback body;
    private Runnable released;

    Function(Callback body, Runnable released) {
        this.body = body;
        this.released = released;
    }

    public static Function getFunction(String name) {
        return name.equals("mlc.json_ffi.CreateJSONFFIEngine") ? new Function(none -> new Module(), () -> {}) : null;
    }

    public static Function convertFunc(Callback body) {
        return new Function(body, () -> {});
    }

    public Function pushArg(int argument) {
        return push(argument);
    }

    public Function pushArg(String argument) {
        return push(argument);
    }

    public Function pushArg(Function argument) {
        return push(argument);
    }

    public TVMValue invoke() {
        TVMValue[] arguments = pushed.get().toArray(new TVMValue[0]);
        pushed.remove();
        return new TVMValue(body.invoke(arguments));
    }

    public void release() {
        released.run();
        released = () -> {};
    }

    private Function push(Object argument) {
        pushed.get().add(new TVMValue(argument));
        return this;
    }
}
