package edgetransact.edge;

import edgetransact.edge.EdgeException.Code;
import java.util.Collections;
import java.util.List;

/** The library that a model runs with on this phone, and where it runs. Immutable. */
public final class Choice {
    /** Why it is this one. */
    public enum Reason {
        /** The GPU is used where that can be. */
        USUAL,
        /** The app or its user wants it. */
        PREFERRED,
        /** {@code edge-transact bench --tune} found it best on this chip. */
        TUNED,
        /** The CPU, since the GPU failed at an earlier start. {@link Starts#forget} takes that back. */
        GPU_FAILED,
        /** The CPU, since this chip's OpenCL is known to give wrong answers. */
        GPU_WRONG,
        /** The CPU, since the phone has no OpenCL. */
        NO_OPENCL,
        /** The CPU, since the model isn't built for GPUs. */
        NO_LIBRARY
    }

    private final Device device;
    private final Reason reason;
    private final String library;
    private final List<Integer> cores;

    private Choice(Device device, Reason reason, String library, List<Integer> cores) {
        this.device = device;
        this.reason = reason;
        this.library = library;
        this.cores = cores;
    }

    /**
     * Chooses what {@code edge-transact bench --tune} found best for answers on the phone's chip. Without that, it
     * chooses the GPU's library if the phone has OpenCL and the model has one, otherwise the CPU's. A model without a
     * library for the CPU runs on the GPU of a chip that is known to give wrong answers, too.
     *
     * @param preference {@code GPU} and {@code CPU} leave no other choice; with {@code AUTO}, a GPU's library that
     *     failed gives way to the CPU's, if the model has one. With {@code CPU}, OpenCL isn't loaded
     * @throws EdgeException {@code NO_LIBRARY}, {@code GPU_FAILED}, or {@code TOO_LITTLE_MEMORY} and {@code
     *     LACKED_MEMORY} for the one that was chosen
     */
    public static Choice of(Model model, Phone phone, Preference preference, Starts starts) throws EdgeException {
        if (preference == Preference.GPU && starts.endedApp(model)) {
            throw EdgeException.of(Code.GPU_FAILED, model.name());
        }
        Choice choice = preference == Preference.AUTO
                ? best(model, phone, starts)
                : on(preference == Preference.GPU ? Device.OPENCL : Device.CPU, Reason.PREFERRED, model, phone);
        if (starts.lackedMemory(model, choice.device) && !phone.ignoresMemory()) {
            long needed = model.memoryBytes(choice.device);
            throw EdgeException.tooLittle(Code.LACKED_MEMORY, needed, phone.availableMemoryBytes());
        }
        return choice;
    }

    private static Choice best(Model model, Phone phone, Starts starts) throws EdgeException {
        boolean built = model.library(Device.OPENCL) != null;
        boolean cpu = model.library(Device.CPU) != null;
        boolean failed = built && starts.failed(model);
        if (failed && !cpu) {
            throw EdgeException.of(Code.GPU_FAILED, model.name());
        }
        Model.Tuned tuned = model.tuned(phone.chip());
        if (tuned != null && tuned.device() == Device.CPU) {
            return on(Device.CPU, Reason.TUNED, model, phone);
        }
        if (failed) {
            return on(Device.CPU, Reason.GPU_FAILED, model, phone);
        }
        if (!built || !starts.openCl(phone)) {
            return on(Device.CPU, built ? Reason.NO_OPENCL : Reason.NO_LIBRARY, model, phone);
        }
        // A bench compares tokens before it measures: where the GPU was tuned, its answers are right.
        if (cpu && tuned == null && Drivers.wrong(phone.chip())) {
            return on(Device.CPU, Reason.GPU_WRONG, model, phone);
        }
        return on(Device.OPENCL, tuned == null ? Reason.USUAL : Reason.TUNED, model, phone);
    }

    /** The library with this name, which the model has. */
    static Choice byLibrary(String library, Model model, Phone phone) throws EdgeException {
        if (library.equals(model.library(Device.CPU))) {
            return on(Device.CPU, Reason.PREFERRED, model, phone);
        }
        if (!phone.openCl()) {
            throw EdgeException.of(Code.NO_LIBRARY, library);
        }
        return on(Device.OPENCL, Reason.PREFERRED, model, phone);
    }

    private static Choice on(Device device, Reason reason, Model model, Phone phone) throws EdgeException {
        if (model.library(device) == null) {
            throw EdgeException.of(Code.NO_LIBRARY, model.name());
        }
        long needed = model.memoryBytes(device);
        if (needed > phone.availableMemoryBytes()) {
            throw EdgeException.tooLittle(Code.TOO_LITTLE_MEMORY, needed, phone.availableMemoryBytes());
        }
        Model.Tuned tuned = model.tuned(phone.chip());
        boolean known = tuned != null && tuned.device() == device;
        return new Choice(device, reason, model.library(device), known ? tuned.cores() : Collections.emptyList());
    }

    /** What it runs on. */
    public Device device() {
        return device;
    }

    /** Why. */
    public Reason reason() {
        return reason;
    }

    /** The library's name, as in {@code system://NAME}. */
    public String library() {
        return library;
    }

    /** The cores of the CPU to run on; empty to leave that to the runtime. */
    public List<Integer> cores() {
        return cores;
    }
}
