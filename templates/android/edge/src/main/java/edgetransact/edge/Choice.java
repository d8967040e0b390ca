package edgetransact.edge;

import java.util.Collections;
import java.util.List;

/** The library that a model runs with on this phone, and where it runs. Immutable. */
public final class Choice {
    private final Device device;
    private final String library;
    private final List<Integer> cores;
    private boolean gaveWay;

    private Choice(Device device, String library, List<Integer> cores) {
        this.device = device;
        this.library = library;
        this.cores = cores;
    }

    /**
     * Chooses what {@code edge-transact bench --tune} found best for answers on the phone's chip. Without that, it
     * chooses the GPU's library if the phone has OpenCL and the model has one, otherwise the CPU's.
     *
     * @param preference {@code GPU} and {@code CPU} leave no other choice; with {@code AUTO}, a GPU's library that
     *     failed gives way to the CPU's, if the model has one
     * @throws EdgeException {@code NO_LIBRARY}, or {@code TOO_LITTLE_MEMORY} for the one that was chosen
     */
    public static Choice of(Model model, Phone phone, Preference preference, Starts starts) throws EdgeException {
        if (preference != Preference.AUTO) {
            Device wanted = preference == Preference.GPU ? Device.OPENCL : Device.CPU;
            if (model.library(wanted) == null) {
                throw EdgeException.of(EdgeException.Code.NO_LIBRARY, model.name());
            }
            return byLibrary(model.library(wanted), model, phone);
        }
        if (phone.openCl() && model.library(Device.CPU) != null && starts.failed(model, Device.OPENCL)) {
            Choice choice = on(Device.CPU, model, phone);
            choice.gaveWay = true;
            return choice;
        }
        return of(model, phone);
    }

    private static Choice of(Model model, Phone phone) throws EdgeException {
        Model.Tuned tuned = model.tuned(phone.chip());
        if (tuned != null && (tuned.device() == Device.CPU || phone.openCl())) {
            return on(tuned.device(), model, phone);
        }
        for (Device device : Device.values()) {
            if (model.library(device) != null && (device == Device.CPU || phone.openCl())) {
                return on(device, model, phone);
            }
        }
        throw EdgeException.of(EdgeException.Code.NO_LIBRARY, model.name());
    }

    /** The library with this name, which the model has. */
    static Choice byLibrary(String library, Model model, Phone phone) throws EdgeException {
        if (library.equals(model.library(Device.CPU))) {
            return on(Device.CPU, model, phone);
        }
        if (!phone.openCl()) {
            throw EdgeException.of(EdgeException.Code.NO_LIBRARY, library);
        }
        return on(Device.OPENCL, model, phone);
    }

    private static Choice on(Device device, Model model, Phone phone) throws EdgeException {
        long needed = model.memoryBytes(device);
        if (needed > phone.availableMemoryBytes()) {
            throw EdgeException.tooLittle(EdgeException.Code.TOO_LITTLE_MEMORY, needed, phone.availableMemoryBytes());
        }
        Model.Tuned tuned = model.tuned(phone.chip());
        boolean known = tuned != null && tuned.device() == device;
        return new Choice(device, model.library(device), known ? tuned.cores() : Collections.emptyList());
    }

    /** What it runs on. */
    public Device device() {
        return device;
    }

    /** Whether this is the CPU because the GPU failed at an earlier start. {@link Starts#forget} takes that back. */
    public boolean gaveWay() {
        return gaveWay;
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
