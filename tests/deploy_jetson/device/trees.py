"""Boards that are not there: sysfs trees of both INA3221 layouts, clocks, zones, RAPL."""

TX2_RAILS = {
    "0-0040": ("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI"),
    "0-0041": ("VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"),
    "0-0042": ("VDD_MUX", "VDD_5V0_IO_SYS", "VDD_3V3_SYS"),
}
TX2_MW = {
    "VDD_SYS_GPU": 1430, "VDD_SYS_SOC": 714, "VDD_4V0_WIFI": 0, "VDD_IN": 9273,
    "VDD_SYS_CPU": 3716, "VDD_SYS_DDR": 1148, "VDD_MUX": 12000, "VDD_5V0_IO_SYS": 900,
    "VDD_3V3_SYS": 300,
}  # fmt: skip


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def iio_tree(root, rails=None, milliwatts=None, first_device=0):
    """L4T r28 to r32. Returns rail -> its power file."""
    values, files = milliwatts or TX2_MW, {}
    for number, (address, names) in enumerate((rails or TX2_RAILS).items()):
        chip = root / f"sys/bus/i2c/drivers/ina3221x/{address}"
        folder = chip / f"iio:device{first_device + number}"
        write(folder / "running_mode", 1)
        for channel, name in enumerate(names):
            write(folder / f"rail_name_{channel}", name)
            files[name] = folder / f"in_power{channel}_input"
            write(files[name], values.get(name, 100))
            write(folder / f"warn_current_limit_{channel}", "32760 ma")
    return files


def hwmon_tree(root, rails, address="1-0040", device=3):
    """L4T r34 and later; rails: (label, millivolts, milliamperes) of channels 1, 2, 3."""
    folder = root / f"sys/bus/i2c/drivers/ina3221/{address}/hwmon/hwmon{device}"
    write(folder / "update_interval", 2)
    for channel, (label, millivolts, milliamperes) in enumerate(rails, 1):
        write(folder / f"in{channel}_label", label)
        write(folder / f"in{channel}_input", millivolts)
        write(folder / f"curr{channel}_input", milliamperes)
    write(folder / "in7_label", "sum of shunt voltages")
    write(folder / "in7_input", 12)
    return folder


def rapl_tree(root, zones):
    """zones: folder suffix -> (name, microjoules, range)."""
    for suffix, (name, energy, size) in zones.items():
        folder = root / f"sys/class/powercap/intel-rapl:{suffix}"
        write(folder / "name", name)
        write(folder / "energy_uj", energy)
        write(folder / "max_energy_range_uj", size)
    return root / "sys/class/powercap"


def tx2_board(root, gpu=(1300500000, 1300500000), celsius=41.0, trip_celsius=95.5):
    """Clocks, zones and identity of a TX2; gpu = (now, cap) in Hz."""
    folder = root / "sys/devices/17000000.gp10b/devfreq/17000000.gp10b"
    write(folder / "cur_freq", gpu[0])
    write(folder / "max_freq", gpu[1])
    write(folder / "governor", "nvhost_podgov")
    for core, now in ((0, 345600), (3, 2035200)):
        cpu = root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        write(cpu / "scaling_cur_freq", now)
        write(cpu / "scaling_max_freq", 2035200)
        write(cpu / "scaling_governor", "schedutil")
    for number, (name, value) in enumerate(
        (("BCPU-therm", celsius), ("GPU-therm", celsius - 1), ("PMIC-Die", 100.0))
    ):
        zone = root / f"sys/class/thermal/thermal_zone{number}"
        write(zone / "type", name)
        write(zone / "temp", round(value * 1000))
        write(zone / "trip_point_0_type", "critical")
        write(zone / "trip_point_0_temp", 101000)
        write(zone / "trip_point_1_type", "passive")
        write(zone / "trip_point_1_temp", round(trip_celsius * 1000))
    tree = root / "proc/device-tree"
    tree.mkdir(parents=True, exist_ok=True)
    (tree / "compatible").write_bytes(b"nvidia,quill\0nvidia,p2597-0000\0nvidia,tegra186\0")
    (tree / "model").write_bytes(b"quill\0")
    write(root / "etc/nv_tegra_release", "# R32 (release), REVISION: 7.1, GCID: 29818004")
    write(root / "proc/stat", "cpu  100 0 50 1000 5 1 1 0 0 0")


# a program of that name, with the file of its mode and whether it can change it
NVPMODEL = """#!/bin/sh
number=$(cat {state})
case "$1" in
-q)
    set -- MAXN MAXQ MAXP_CORE_ALL MAXP_CORE_ARM MAXP_CORE_DENVER
    shift "$number"
    echo "NV Fan Mode:quiet"
    echo "NV Power Mode: $1"
    echo "$number"
    ;;
-m) if [ {works} = 1 ]; then printf %s "$2" > {state}; fi ;;
esac
"""
